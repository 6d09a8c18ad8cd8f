//! Releases on trial: one that works is confirmed, one that does not is rolled back by itself.

use crate::site::{STAND_IN, Site, base, notice, path, serves, version};
use pillion_tests::until;
use std::fs;

/// Memory of a process in KiB: all that is resident, or `RssAnon`, which is its own alone.
fn resident_kib(pid: u32, which: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find(|line| line.starts_with(which)).expect("the kernel tells");
    line.split_whitespace().nth(1).and_then(|text| text.parse().ok()).expect("a number")
}

#[tokio::test]
#[allow(clippy::print_stdout, reason = "the figures of a run are worth a line")]
async fn a_release_that_works_is_confirmed_with_all_data() {
    let site = Site::new();
    let mut pillion = site.up().await;
    let old = base();
    assert_eq!((version(&pillion).await, notice(&pillion).await), (old.clone(), String::new()));
    site.subscribe().await;
    site.store("before").await;

    let new = site.workshop.release("0.2.0", "1");
    let image = site.workshop.image(&new);
    let output = site.update(&[path(&image), "--restart"]).await.expect_success();
    assert!(output.out.join("\n").contains("0.2.0 is in slot a"), "{output:?}");
    assert_eq!(pillion.ended().await.code(), Some(0), "{}", pillion.log());

    // On trial it is a child of the launcher, and says so.
    let mut pillion = site.up().await;
    serves(&pillion, "0.2.0").await;
    assert!(notice(&pillion).await.contains("0.2.0 on trial, 2 more starts"));
    site.told("READY=1").await;
    site.told("WATCHDOG=1").await;
    let busy = site.update(&[path(&image)]).await;
    assert!(busy.errors.join("\n").contains("on trial"), "{busy:?}");
    site.store("during").await;
    let status = site.shows("0.2.0  storage format 1  confirmed").await;
    assert!(status.contains(&format!("0.2.0 was confirmed in place of {old}")), "{status}");
    let [all, own] = ["VmRSS:", "RssAnon:"].map(|which| resident_kib(pillion.pid(), which));
    println!("the launcher beside a release that was confirmed: {all} KiB, {own} of its own");
    assert_eq!(pillion.stop().await.code(), Some(0), "{}", pillion.log());
    site.told("STOPPING=1").await;

    // From then on it runs in the launcher's place.
    let mut pillion = site.up().await;
    assert_eq!((version(&pillion).await, notice(&pillion).await), ("0.2.0".into(), String::new()));
    let exe = fs::read_link(format!("/proc/{}/exe", pillion.pid())).expect("it runs");
    assert!(exe.ends_with("slots/a/pillion"), "{}", exe.display());
    site.store("after").await;
    site.has(&["before", "during", "after"]).await;
    let again = site.update(&[path(&image)]).await;
    assert!(again.errors.join("\n").contains("the version that is confirmed"), "{again:?}");

    // The next one goes to the other slot.
    site.install(&site.workshop.release("0.3.0", "1")).await;
    pillion.stop().await;
    let mut pillion = site.up().await;
    serves(&pillion, "0.3.0").await;
    let status = site.shows("0.3.0 was confirmed in place of 0.2.0").await;
    assert!(status.contains("slot a  0.2.0  storage format 1  confirmed before"), "{status}");
    site.store("later").await;

    // Back by hand.
    pillion.stop().await;
    site.update(&["--revert"]).await.expect_success();
    let pillion = site.up().await;
    assert_eq!(version(&pillion).await, "0.2.0");
    site.has(&["later"]).await;
    let nothing = site.update(&["--revert"]).await;
    assert!(nothing.errors.join("\n").contains("nothing was confirmed before"), "{nothing:?}");
}

/// Old, then a release that fails in each way, and the old one again in the same start.
async fn is_rolled_back(mode: &str, reason: &str) {
    let site = Site::with(if mode == "hangs" { "1s" } else { "20s" }, "2s");
    let mut pillion = site.up().await;
    site.subscribe().await;
    site.store("before").await;
    pillion.stop().await;
    site.install(&site.workshop.stand_in(STAND_IN, "0.2.0", mode)).await;

    let mut pillion = site.up().await;
    let old = base();
    assert_eq!(version(&pillion).await, old, "{}", pillion.log());
    site.told("EXTEND_TIMEOUT_USEC=").await;
    site.told("READY=1").await;
    assert!(!site.runs("a"), "the failed one is gone");
    let notice = notice(&pillion).await;
    assert!(notice.contains("0.2.0 was rolled back: ") && notice.contains(reason), "{notice}");
    let status = site.status().await;
    assert!(status.contains(reason) && status.contains("slot a  free"), "{status}");
    site.store("after").await;
    site.has(&["before", "after"]).await;
    assert_eq!(pillion.stop().await.code(), Some(0), "{}", pillion.log());

    // It is not tried again, but a better one is.
    let mut pillion = site.up().await;
    assert_eq!(version(&pillion).await, old);
    assert!(!pillion.log().contains("started on trial"), "{}", pillion.log());
    pillion.stop().await;
    site.install(&site.workshop.release("0.2.1", "1")).await;
    serves(&site.up().await, "0.2.1").await;
}

#[tokio::test]
async fn one_that_ends_at_once_is_rolled_back() {
    is_rolled_back("exits", "(exit status: 3)").await;
}

#[tokio::test]
async fn one_that_is_never_ready_is_rolled_back() {
    is_rolled_back("hangs", "not ready within 1s").await;
}

#[tokio::test]
async fn one_that_ends_in_its_probation_is_rolled_back() {
    is_rolled_back("dies", "(exit status: 4)").await;
}

#[tokio::test]
async fn one_that_is_silent_is_rolled_back() {
    is_rolled_back("is-silent", "no sign of life").await;
}

/// The power goes in every start of the trial.
#[tokio::test]
async fn starts_that_are_cut_short_are_counted() {
    let site = Site::new();
    site.install(&site.workshop.stand_in(STAND_IN, "0.2.0", "hangs")).await;
    for left in [2, 1, 0] {
        let mut pillion = site.launch();
        until("the trial", || async { site.runs("a").then_some(()) }).await;
        site.shows(&format!("on trial, {left} starts left")).await;
        pillion.signal(libc::SIGKILL);
        pillion.ended().await;
        site.is_gone("a").await;
    }
    let pillion = site.up().await;
    assert_eq!(version(&pillion).await, base());
    assert!(site.status().await.contains("none of its starts lasted"), "{}", pillion.log());
}

/// A stop on request is nobody's fault once the release is ready, and one before that is.
#[tokio::test]
async fn a_stop_on_request_gives_the_start_back() {
    let site = Site::with("20s", "60s");
    site.install(&site.workshop.release("0.2.0", "1")).await;
    for _ in 0..2 {
        let mut pillion = site.up().await;
        serves(&pillion, "0.2.0").await;
        site.told("READY=1").await;
        assert_eq!(pillion.stop().await.code(), Some(0), "{}", pillion.log());
        assert!(site.status().await.contains("on trial, 3 starts left"));
    }
    let site = Site::with("20s", "60s");
    site.install(&site.workshop.stand_in(STAND_IN, "0.2.0", "hangs")).await;
    let mut pillion = site.launch();
    until("the trial", || async { site.runs("a").then_some(()) }).await;
    assert_eq!(pillion.stop().await.code(), Some(128 + libc::SIGTERM), "{}", pillion.log());
    assert!(site.status().await.contains("on trial, 2 starts left"));
}

/// Flash that rots: neither a damaged binary nor a damaged state is followed.
#[tokio::test]
async fn what_is_damaged_is_not_started() {
    let site = Site::new();
    let slots = site.gateway.data().join("slots");
    let damage = |name: &str| {
        let path = slots.join(name);
        let mut bytes = fs::read(&path).expect("a file");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&path, bytes).expect("a writable file");
    };
    // On trial.
    site.install(&site.workshop.release("0.2.0", "1")).await;
    damage("a/pillion");
    let mut pillion = site.up().await;
    assert_eq!(version(&pillion).await, base());
    assert!(site.status().await.contains("rolled back: "), "{}", pillion.log());
    pillion.stop().await;

    // Confirmed; then one copy of the state, then both.
    site.install(&site.workshop.release("0.2.0", "1")).await;
    let mut pillion = site.up().await;
    site.shows("0.2.0 was confirmed").await;
    pillion.stop().await;
    // One that cannot be started: the base serves, and outlives clients that go away.
    let binary = slots.join("a/pillion");
    let mode = |mode| std::os::unix::fs::PermissionsExt::from_mode(mode);
    fs::set_permissions(&binary, mode(0o644)).expect("a file of ours");
    let mut pillion = site.up().await;
    assert_eq!(version(&pillion).await, base(), "{}", pillion.log());
    assert!(pillion.log().contains("cannot be started"), "{}", pillion.log());
    let status = fs::read_to_string(format!("/proc/{}/status", pillion.pid())).expect("it runs");
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).expect("a set");
    let ignored = u64::from_str_radix(ignored.trim(), 16).expect("hex");
    assert!(ignored & 1 << (libc::SIGPIPE - 1) != 0, "a broken pipe would end it");
    pillion.stop().await;
    fs::set_permissions(&binary, mode(0o755)).expect("a file of ours");
    for (name, wanted) in [("state", "0.2.0"), ("state-2", &*base())] {
        damage(name);
        let mut pillion = site.up().await;
        assert_eq!(version(&pillion).await, wanted, "{name}: {}", pillion.log());
        pillion.stop().await;
    }
    damage("state");
    damage("state-2");
    damage("a/pillion");
    let mut pillion = site.up().await;
    assert_eq!(version(&pillion).await, base());
    assert!(pillion.log().contains("a/pillion: damaged"), "{}", pillion.log());
    pillion.stop().await;

    // The same release mends it.
    assert!(site.status().await.contains("confirmed; "), "the status says so");
    site.install(&site.workshop.release("0.2.0", "1")).await;
    let mut pillion = site.up().await;
    serves(&pillion, "0.2.0").await;
    site.shows("slot b  0.2.0  storage format 1  confirmed").await;
    pillion.stop().await;
}

/// Root installs what the service's user runs: with that user's rights, so that nothing in its
/// directory leads root elsewhere.
#[tokio::test]
async fn root_installs_with_the_rights_of_the_service() {
    use std::os::unix::fs::{MetadataExt as _, chown, symlink};
    const USER: u32 = 65534;
    let site = Site::new();
    let data = site.gateway.data();
    if chown(&data, Some(USER), Some(USER)).is_err() {
        // Only root gives files away, and only root is in this danger.
        return;
    }
    site.install(&site.workshop.release("0.2.0", "1")).await;
    for name in ["slots", "slots/a", "slots/a/pillion", "slots/state"] {
        assert_eq!(fs::metadata(data.join(name)).expect(name).uid(), USER, "{name}");
    }
    let elsewhere = site.gateway.dir().join("elsewhere");
    fs::create_dir(&elsewhere).expect("a writable directory");
    fs::remove_dir_all(data.join("slots/a")).expect("a directory");
    symlink(&elsewhere, data.join("slots/a")).expect("a link");
    let image = site.workshop.image(&site.workshop.release("0.2.1", "1"));
    let output = site.update(&[path(&image)]).await;
    assert!(output.errors.join("\n").contains("Permission denied"), "{output:?}");
    assert_eq!(fs::read_dir(&elsewhere).expect("a directory").count(), 0);
}
