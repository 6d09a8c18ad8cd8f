//! What may not be installed: each refusal says why, and nothing in the data directory changes.

use crate::site::{STAND_IN, Site, base, path};
use pillion_tests::Workshop;
use std::fs;
use std::path::Path;

async fn refuses(site: &Site, image: &Path, word: &str) {
    let before = site.snapshot();
    let output = site.update(&[path(image)]).await;
    assert_eq!(output.status.code(), Some(1), "{word}: {output:?}");
    let errors = output.errors.join("\n");
    assert!(errors.contains(word), "no '{word}' in {errors}");
    assert!(output.out.is_empty(), "{output:?}");
    assert!(before == site.snapshot(), "{word}: the data directory has changed");
}

#[tokio::test]
async fn a_wrong_image_is_refused_and_changes_nothing() {
    let site = Site::new();
    let workshop = &site.workshop;
    let works = workshop.stand_in(STAND_IN, "0.2.0", "works");
    let good = workshop.image(&works);
    let whole = fs::read(&good).expect("an image");
    let head = whole.len() - works.len();

    refuses(&site, Path::new("/nowhere"), "No such file").await;
    refuses(&site, &workshop.file(b""), "no update image").await;
    refuses(&site, &workshop.file(&works), "no update image").await;
    refuses(&site, &workshop.image_by("other", &works), "none of the keys").await;
    let text = String::from_utf8_lossy(&whole[..head]).replace("version 0.2.0", "version 0.9.0");
    let forged = [text.as_bytes(), &works].concat();
    refuses(&site, &workshop.file(&forged), "none of the keys").await;
    let mut tampered = whole.clone();
    tampered[head + works.len() / 2] ^= 1;
    refuses(&site, &workshop.file(&tampered), "is damaged").await;
    let cuts = [1, 14, 20, head / 2, head - 1, head, head + 1, whole.len() / 2, whole.len() - 1];
    for cut in cuts {
        let refusal = if cut < 15 { "image" } else { "truncated" };
        refuses(&site, &workshop.file(&whole[..cut]), refusal).await;
    }
    let long = [&whole[..], b"\n"].concat();
    refuses(&site, &workshop.file(&long), "appended").await;

    let mut foreign = works.clone();
    foreign[18] = if cfg!(target_arch = "arm") { 62 } else { 40 };
    let name = if cfg!(target_arch = "arm") { "is for x86_64" } else { "is for arm" };
    refuses(&site, &workshop.image(&foreign), name).await;

    let equal = workshop.stand_in(STAND_IN, &base(), "works");
    refuses(&site, &workshop.image(&equal), "the version that is confirmed").await;
    for older in ["0.0.9", "0.1.0-rc.1"] {
        let older = workshop.stand_in(STAND_IN, older, "works");
        refuses(&site, &workshop.image(&older), "older than what is confirmed").await;
    }
    let storage = workshop.release("0.2.0", "2-3");
    refuses(&site, &workshop.image(&storage), "storage format 2-3, and the data is in 1").await;

    // Signed and whole, and not what it says: found out when it is started.
    let mut liar = works.clone();
    let place = liar.windows(22).rposition(|at| at == b"stand-in version=0.2.0").expect("facts");
    liar[place + 17..place + 22].copy_from_slice(b"0.1.9");
    let text = site.update(&[path(&workshop.image(&liar))]).await;
    assert!(text.errors.join("\n").contains("says 'pillion 0.1.9"), "{text:?}");
    assert!(site.status().await.contains("no update yet"));

    // After all that, the right one is taken.
    site.update(&[path(&good)]).await.expect_success();
    assert!(site.status().await.contains("on trial, 3 starts left"));
}

#[tokio::test]
async fn without_a_key_nothing_is_installed() {
    let workshop = Workshop::new();
    let key = workshop.public_key();
    let site = Site::of(workshop, "", "20s", "2s");
    let works = site.workshop.stand_in(STAND_IN, "0.2.0", "works");
    let image = site.workshop.image(&works);
    refuses(&site, &image, "add spec.update.keys").await;

    let site = Site::of(Workshop::new(), "release.pem", "20s", "2s");
    let output = site.update(&[path(&image)]).await;
    assert!(
        output.errors.join("\n").contains("spec.update.keys holds 'release.pem'"),
        "{output:?}"
    );

    let site = Site::of(Workshop::new(), "/nowhere.pem", "20s", "2s");
    refuses(&site, &image, "/nowhere.pem: No such file").await;

    // The line of base64 that openssl prints is a key as well.
    let text = fs::read_to_string(key).expect("a key");
    let line = text.lines().nth(1).expect("a line");
    let site = Site::of(Workshop::new(), line, "20s", "2s");
    site.update(&[path(&image)]).await.expect_success();
}
