//! Mounts, disks, and what is known of their wear.

use super::super::flash::rate;
use super::super::system::{Mount, disk_of, mount_of};
use super::super::{Findings, Level, data, flash};
use super::{Fake, found, said};
use std::fs;
use std::path::Path;

const MOUNTS: &str = "\
20 1 179:2 / / rw,noatime shared:1 - ext4 /dev/mmcblk0p2 rw
21 20 0:30 / /tmp rw shared:2 - tmpfs tmpfs rw,size=1024k
22 20 0:31 / /with\\040blank rw - btrfs /dev/mapper/data rw,nobarrier
23 20 0:32 / /covered rw - tmpfs tmpfs rw
24 20 0:33 / /covered rw,ro - overlay overlay rw
garbage
";

#[test]
fn the_deepest_and_latest_mount_counts() {
    let fake = Fake::new(&[("proc/self/mountinfo", MOUNTS)]);
    for (path, kind) in [
        ("/data/x", "ext4"),
        ("/tmpx", "ext4"),
        ("/tmp/x", "tmpfs"),
        ("/with blank/x", "btrfs"),
        ("/covered", "overlay"),
    ] {
        let mount = mount_of(&fake.root(), Path::new(path)).expect(path);
        assert_eq!(mount.kind, kind, "{path}");
    }
}

#[test]
fn file_systems_are_judged() {
    for (kind, options, level) in [
        ("ext4", "rw,noatime", Level::Ok),
        ("ext4", "ro", Level::Fail),
        ("ext4", "rw,nobarrier", Level::Fail),
        ("tmpfs", "rw", Level::Fail),
        ("f2fs", "rw", Level::Ok),
        ("overlay", "rw", Level::Warn),
        ("nfs4", "rw", Level::Warn),
        ("vfat", "rw", Level::Warn),
    ] {
        let mount = Mount {
            kind: kind.into(),
            source: "x".into(),
            device: "0:1".into(),
            options: options.into(),
        };
        let mut out = Findings::default();
        data::file_system(&mount, &mut out);
        assert_eq!(found(&out.0, "file system").0, level, "{kind} {options}");
    }
}

/// A card reader with an eMMC of 8 GB, whose second partition is under a mapper.
pub(super) fn emmc(life: &str, spare: &str) -> Fake {
    let disk = "sys/devices/mmc0/block/mmcblk0";
    let file = |name: &str| format!("{disk}/{name}");
    let files = [
        (file("stat"), "1 2 3 4 5 6 31250000 8 9 10 11"),
        (file("size"), "15625000"),
        (file("queue/rotational"), "0"),
        (file("device/type"), "MMC"),
        (file("device/life_time"), life),
        (file("device/pre_eol_info"), spare),
        (file("mmcblk0p2/partition"), "2"),
        (file("mmcblk0p2/stat"), "0"),
        ("sys/devices/virtual/block/dm-0/stat".into(), "0"),
        ("proc/uptime".into(), "86400.25 1.0"),
        ("data/lock".into(), ""),
    ];
    let files: Vec<_> = files.iter().map(|(path, text)| (path.as_str(), *text)).collect();
    let fake = Fake::new(&files);
    fake.link("sys/dev/block/179:2", &file("mmcblk0p2"));
    fake.link("sys/dev/block/254:0", "sys/devices/virtual/block/dm-0");
    fake.link("sys/devices/virtual/block/dm-0/slaves/mmcblk0p2", &file("mmcblk0p2"));
    fake.link("sys/class/block/mmcblk0p2", &file("mmcblk0p2"));
    let line = "1 0 254:0 / / rw - ext4 /dev/mapper/data rw\n";
    fs::create_dir_all(fake.0.join("proc/self")).expect("a folder");
    fs::write(fake.0.join("proc/self/mountinfo"), line).expect("a file");
    fake
}

#[test]
fn the_disk_is_found_under_partitions_and_mappers() {
    let fake = emmc("0x01 0x01", "0x01");
    for (device, source) in [("179:2", "x"), ("254:0", "x"), ("0:40", "/dev/mmcblk0p2")] {
        let mount = Mount {
            kind: "ext4".into(),
            source: source.into(),
            device: device.into(),
            options: String::new(),
        };
        let disk = disk_of(&fake.root(), &mount).unwrap_or_else(|| panic!("{device} {source}"));
        assert!(disk.ends_with("block/mmcblk0"), "{device} {source}: {}", disk.display());
    }
    let mount = Mount {
        kind: "tmpfs".into(),
        source: "tmpfs".into(),
        device: "0:41".into(),
        options: String::new(),
    };
    assert_eq!(disk_of(&fake.root(), &mount), None);
}

#[test]
fn wear_of_an_emmc_is_judged() {
    for (life, spare, level, text) in [
        ("0x01 0x02", "0x01", Level::Ok, "10 to 20 %"),
        ("0x02 0x09", "0x01", Level::Warn, "80 to 90 %"),
        ("0x01 0x0b", "0x01", Level::Fail, "over its life"),
        ("0x01 0x01", "0x02", Level::Warn, "80 % of its spare"),
        ("0x01 0x01", "0x03", Level::Fail, "90 % of its spare"),
        ("0x00 0x00", "0x00", Level::Skip, "not told"),
        ("garbage", "", Level::Skip, "not told"),
    ] {
        let fake = emmc(life, spare);
        let findings = said(flash::check, fake.scene());
        let (is, said) = found(&findings, "wear");
        assert_eq!(is, level, "{life} {spare}: {said}");
        assert!(said.contains(text), "{life} {spare}: {said}");
    }
}

#[test]
fn what_is_written_a_day_is_judged() {
    let fake = emmc("0x01 0x01", "0x01");
    let mut scene = fake.scene();
    // 31,250,000 sectors in a day are 16 GB, half of 8 GB is the budget.
    let (level, text) = found(&said(flash::check, fake.scene()), "written by all programs");
    assert_eq!(level, Level::Warn, "{text}");
    assert!(text.contains("16.0 GB a day, 400 % of the budget of 4.0 GB"), "{text}");
    scene.plan.gateway.flash.bytes_per_day = Some(20_000_000_000);
    let (level, text) = found(&said(flash::check, scene), "written by all programs");
    assert_eq!((level, text.contains("80 %")), (Level::Ok, true), "{text}");
    let mut out = Findings::default();
    rate("a minute is no day", 1 << 40, 60, 1, &mut out);
    rate("an hour is", u64::MAX, 3_600, 0, &mut out);
    let levels: Vec<_> = out.0.iter().map(|finding| finding.level).collect();
    assert_eq!(levels, [Level::Skip, Level::Warn]);
}

#[test]
fn raw_nand_tells_by_ubi() {
    let fake = Fake::new(&[
        ("proc/self/mountinfo", "1 0 0:20 / / rw - ubifs ubi0:rootfs rw\n"),
        ("sys/class/ubi/ubi0/max_ec", "1234\n"),
        ("sys/class/ubi/ubi0/bad_peb_count", "3\n"),
        ("data/lock", ""),
    ]);
    let (level, text) = found(&said(flash::check, fake.scene()), "wear");
    assert_eq!(level, Level::Ok);
    assert!(text.contains("1234 times, 3 bad"), "{text}");
}
