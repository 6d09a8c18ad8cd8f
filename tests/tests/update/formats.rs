//! Storage formats: a release on trial writes nothing that its predecessor cannot open; once it is
//! confirmed it does, and the predecessor says so instead of taking it for damage.

use crate::site::{Site, base, serves, version};
use pillion_tests::until;

#[tokio::test]
async fn the_predecessor_opens_what_a_trial_wrote_and_refuses_what_comes_after() {
    let site = Site::new();
    let format = site.gateway.data().join("format-2");
    let mut pillion = site.up().await;
    site.subscribe().await;
    site.store("before").await;
    pillion.stop().await;

    // Every start of the trial is cut short.
    let new = site.workshop.release("0.2.0", "1-2");
    site.install(&new).await;
    let names = ["trial-1", "trial-2", "trial-3"];
    for name in names {
        let mut pillion = site.up().await;
        serves(&pillion, "0.2.0").await;
        site.store(name).await;
        assert!(!format.exists(), "a format that the predecessor does not open");
        pillion.signal(libc::SIGKILL);
        pillion.ended().await;
        site.is_gone("a").await;
    }
    let mut pillion = site.up().await;
    assert_eq!(version(&pillion).await, base(), "{}", pillion.log());
    site.has(&["before", "trial-1", "trial-2", "trial-3"]).await;
    site.store("back").await;
    pillion.stop().await;

    // Confirmed: the running process still writes the old format, the next one the new.
    site.install(&new).await;
    let mut pillion = site.up().await;
    serves(&pillion, "0.2.0").await;
    site.shows("0.2.0 was confirmed").await;
    site.store("confirmed").await;
    assert!(!format.exists());
    pillion.stop().await;
    let mut pillion = site.up().await;
    assert_eq!(version(&pillion).await, "0.2.0");
    assert!(format.exists(), "{}", pillion.log());
    site.store("new").await;
    pillion.stop().await;

    let before = site.snapshot();
    let mut old = site.gateway.spawn();
    assert_eq!(old.ended().await.code(), Some(1), "{}", old.log());
    let told = "is in storage format 2 of a newer release, and this one opens 1";
    until(told, || async { old.log().contains(told).then_some(()) }).await;
    let mut after = site.snapshot();
    // Who holds the directory is noted there, for people.
    let lock = site.gateway.data().join("lock").display().to_string();
    after.insert(lock.clone(), before[&lock].clone());
    assert!(after == before, "the data directory has changed");
    let refusal = site.update(&["--revert"]).await;
    assert!(refusal.errors.join("\n").contains("there is no way back"), "{refusal:?}");

    let pillion = site.up().await;
    assert_eq!(version(&pillion).await, "0.2.0");
    site.has(&["back", "confirmed", "new"]).await;
}
