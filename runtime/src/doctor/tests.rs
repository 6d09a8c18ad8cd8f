//! Checks over a folder that looks like `/`: what the kernel would say is written into files.

#![allow(clippy::print_stdout, reason = "a random test tells its seed")]

use super::certificates::{dates, time, validity};
use super::flash::rate;
use super::scene::Scene;
use super::system::{Mount, Root, disk_of, mount_of};
use super::{Finding, Level, bytes, cloud, data, flash, memory, ports, running};
use base64::Engine as _;
use pillion_components::env;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A folder with a file system's look, removed at the end.
struct Fake(PathBuf);

impl Fake {
    fn new(files: &[(&str, &str)]) -> Self {
        let dir = std::env::temp_dir().join(format!("pillion-doctor-{:x}", env::random_u64()));
        fs::create_dir_all(&dir).expect("a writable temporary directory");
        let fake = Self(dir.canonicalize().expect("it was just made"));
        for (path, text) in files {
            let path = fake.0.join(path);
            fs::create_dir_all(path.parent().expect("below the folder")).expect("a folder");
            fs::write(path, text).expect("a file");
        }
        fake
    }

    fn root(&self) -> Root {
        Root(self.0.clone())
    }

    fn link(&self, from: &str, to: &str) {
        let from = self.0.join(from);
        fs::create_dir_all(from.parent().expect("below the folder")).expect("a folder");
        symlink(self.0.join(to), from).expect("a link");
    }

    fn scene(&self) -> Scene {
        Scene::fake(self.root(), Some(self.0.join("data")))
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Level and text of the finding of this name.
#[track_caller]
fn found(findings: &[Finding], name: &str) -> (Level, String) {
    let one = findings.iter().find(|finding| finding.name == name);
    let one = one.unwrap_or_else(|| panic!("no {name} in {findings:#?}"));
    assert_eq!(one.advice.is_empty(), matches!(one.level, Level::Ok | Level::Skip), "{one:?}");
    (one.level, one.found.clone())
}

/// Self-signed by openssl, from 2026-11-24 21:03:59 to 2036-11-21 21:03:59.
const CERTIFICATE: &str = "MIIBnjCCAUWgAwIBAgIUTyDeMmbw7s4w6MVFImCD4R3H5H8wCgYIKoZIzj0EAwIwJTEQMA4GA1UECgwH\
    UGlsbGlvbjERMA8GA1UEAwwIc2Vuc29yLTcwHhcNMjYxMTI0MjEwMzU5WhcNMzYxMTIxMjEwMzU5WjAl\
    MRAwDgYDVQQKDAdQaWxsaW9uMREwDwYDVQQDDAhzZW5zb3ItNzBZMBMGByqGSM49AgEGCCqGSM49AwEH\
    A0IABFVKbVLimtJd/By1fT/GW7pGGFhZ/GG6a7XbrmXlhy6fbgwe1KOw3iX1ZKTNdu33l2ldA0EsN3yK\
    IESBZ5WHQ9yjUzBRMB0GA1UdDgQWBBTCNvqN2malUl5cerH9WamyDV0LZzAfBgNVHSMEGDAWgBTCNvqN\
    2malUl5cerH9WamyDV0LZzAPBgNVHRMBAf8EBTADAQH/MAoGCCqGSM49BAMCA0cAMEQCIAOlWKR4RiKf\
    gFeJbw4GxTwFcUPyNOFAZbt2fEKQ4uclAiBsdbv7se8Zy+cbJp/d5WOXVaadwHnvF+Gf5eR9LeQAhg==";
const FROM: i64 = 1_795_554_239;
const UNTIL: i64 = 2_110_914_239;

#[test]
fn dates_of_certificates_are_judged() {
    let pem = format!("-----BEGIN CERTIFICATE-----\n{CERTIFICATE}\n-----END CERTIFICATE-----\n");
    let day = 86_400;
    for (now, is_authority, level) in [
        (UNTIL - 400 * day, false, Level::Ok),
        (UNTIL - 29 * day, false, Level::Warn),
        (UNTIL + 1, false, Level::Fail),
        (UNTIL + 1, true, Level::Fail),
        // A clock that is not set can judge nothing.
        (1_000_000, false, Level::Skip),
    ] {
        let finding = dates(now, "x", pem.as_bytes(), is_authority);
        assert_eq!(finding.level, level, "{now}: {finding:?}");
    }
    for text in ["", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "x"] {
        assert_eq!(dates(UNTIL, "x", text.as_bytes(), false).level, Level::Fail, "{text}");
    }
}

#[test]
fn damaged_certificates_are_survived() {
    let der = base64::engine::general_purpose::STANDARD.decode(CERTIFICATE).expect("base64");
    assert_eq!(validity(&der), Some((FROM, UNTIL)));
    let seed = env::random_u64();
    println!("seed {seed}");
    let mut state = seed | 1;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % below as u64).expect("below a usize")
    };
    for length in 0..der.len() {
        let _ = validity(&der[..length]);
    }
    for _ in 0..200_000 {
        let mut bent = der.clone();
        // Most of what is read lies in front.
        for _ in 0..=random(4) {
            let reach = if random(2) == 0 { 90 } else { der.len() };
            let at = random(reach);
            bent[at] = u8::try_from(random(256)).expect("a byte");
        }
        let (one, other) = (random(der.len() + 1), random(der.len() + 1));
        bent.truncate(one.max(other));
        let _ = validity(&bent);
    }
}

#[test]
fn times_of_certificates() {
    for (tag, text, seconds) in [
        (0x17, "700101000000Z", Some(0)),
        (0x17, "240229120000Z", Some(1_709_208_000)),
        (0x17, "491231235959Z", Some(2_524_607_999)),
        (0x17, "500101000000Z", Some(-631_152_000)),
        (0x18, "20000301000000Z", Some(951_868_800)),
        (0x18, "99991231235959Z", Some(253_402_300_799)),
        (0x17, "701301000000Z", None),
        (0x17, "700100000000Z", None),
        (0x17, "70010100000Z", None),
        (0x17, "7001010000-1Z", None),
        (0x17, "700101000000", None),
        (0x16, "700101000000Z", None),
        (0x18, "é0000301000000Z", None),
    ] {
        assert_eq!(time(tag, text.as_bytes()), seconds, "{text}");
    }
}

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
        assert_eq!(data::file_system(&mount).level, level, "{kind} {options}");
    }
}

/// A card reader with an eMMC of 8 GB, whose second partition is under a mapper.
fn emmc(life: &str, spare: &str) -> Fake {
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
        let findings = flash::check(&Arc::new(fake.scene()));
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
    let (level, text) = found(&flash::check(&Arc::new(fake.scene())), "written by all programs");
    assert_eq!(level, Level::Warn, "{text}");
    assert!(text.contains("16.0 GB a day, 400 % of the budget of 4.0 GB"), "{text}");
    scene.plan.gateway.flash.bytes_per_day = Some(20_000_000_000);
    let (level, text) = found(&flash::check(&Arc::new(scene)), "written by all programs");
    assert_eq!((level, text.contains("80 %")), (Level::Ok, true), "{text}");
    assert_eq!(rate("x", 1 << 40, 60, 1).level, Level::Skip, "a minute is no day");
    assert_eq!(rate("x", u64::MAX, 3_600, 0).level, Level::Warn);
}

#[test]
fn raw_nand_tells_by_ubi() {
    let fake = Fake::new(&[
        ("proc/self/mountinfo", "1 0 0:20 / / rw - ubifs ubi0:rootfs rw\n"),
        ("sys/class/ubi/ubi0/max_ec", "1234\n"),
        ("sys/class/ubi/ubi0/bad_peb_count", "3\n"),
        ("data/lock", ""),
    ]);
    let (level, text) = found(&flash::check(&Arc::new(fake.scene())), "wear");
    assert_eq!(level, Level::Ok);
    assert!(text.contains("1234 times, 3 bad"), "{text}");
}

#[test]
fn listening_sockets_are_read() {
    let line =
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid\n";
    // As a machine with little ends writes them; the numbers of this one's order are made below.
    let v4 = format!("{:08X}:0DAC", u32::from_ne_bytes([127, 0, 0, 1]));
    let v6 = format!("{:08X}{0:08X}{0:08X}{0:08X}:075B", 0);
    let row = |address: &str, state: &str, uid: u32, inode: u32| {
        format!("   0: {address} 0:0 {state} 0:0 00:00 0 {uid} 0 {inode} 1 0 100 0\n")
    };
    let tcp = format!("{line}{}{}garbage\n", row(&v4, "0A", 7, 11), row(&v4, "01", 7, 12));
    let fake = Fake::new(&[("proc/net/tcp", &tcp), ("proc/net/tcp6", &row(&v6, "0A", 8, 13))]);
    let sockets = ports::sockets(&fake.root());
    let socket = |address: &str, uid, inode| ports::Socket {
        address: address.parse().expect("an address"),
        uid,
        inode,
    };
    assert_eq!(sockets, [socket("127.0.0.1:3500", 7, 11), socket("[::]:1883", 8, 13)]);
}

#[test]
fn the_holder_of_the_lock_is_found() {
    let fake = Fake::new(&[
        ("data/lock", "700\n"),
        ("proc/uptime", "5000.10 1.0"),
        ("proc/700/comm", "pillion\n"),
        ("proc/700/stat", "700 (a ) b) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 100000 1"),
        ("proc/701/comm", "other\n"),
        ("proc/702/comm", "pillion\n"),
        ("proc/702/cmdline", "/usr/bin/pillion\0serve\0/etc/p\0--data-dir\0/d\0"),
    ]);
    let dir = fake.0.join("data");
    let inode = fs::metadata(dir.join("lock")).expect("a file").ino();
    let find = |locks: String, dir: Option<&Path>, resources: &str| {
        fs::write(fake.0.join("proc/locks"), locks).expect("a file");
        running::find(&fake.root(), dir, Path::new(resources))
    };
    let lock =
        |pid: u32, inode: u64| format!("1: FLOCK  ADVISORY  WRITE {pid} 08:01:{inode} 0 EOF\n");
    let of_others = format!("1: -> POSIX\n{}", lock(701, inode));
    let by_lock = find(of_others + &lock(700, inode), Some(&dir), "/x").expect("700");
    assert_eq!((by_lock.pid, by_lock.uptime_s), (700, Some(4_000)));
    assert!(find(lock(700, inode + 1), Some(&dir), "/x").is_none(), "another file's lock");
    let by_words = find(String::new(), None, "/etc/p").expect("702");
    assert_eq!(by_words.pid, 702);
    assert_eq!(by_words.data_dir(&fake.root(), None), Some("/d".into()));
}

#[test]
fn memory_and_swap_are_judged() {
    let meminfo =
        |available: u32| format!("MemTotal:         512000 kB\nMemAvailable:     {available} kB\n");
    let swaps = "Filename Type Size Used Priority\n/dev/zram0 partition 1 0 5\n";
    let fake = Fake::new(&[("proc/meminfo", &meminfo(256_000)), ("proc/swaps", swaps)]);
    let findings = memory::check(&Arc::new(fake.scene()));
    assert_eq!(found(&findings, "memory").0, Level::Ok);
    assert_eq!(findings.len(), 1, "zram is no flash: {findings:?}");
    fs::write(fake.0.join("proc/meminfo"), meminfo(8_000)).expect("a file");
    assert_eq!(found(&memory::check(&Arc::new(fake.scene())), "memory").0, Level::Warn);

    let fake = emmc("0x01 0x01", "0x01");
    let swaps = "Filename Type Size Used Priority\n/dev/mmcblk0p2 partition 1 0 5\n";
    fs::write(fake.0.join("proc/swaps"), swaps).expect("a file");
    assert_eq!(found(&memory::check(&Arc::new(fake.scene())), "swap").0, Level::Warn);
}

#[test]
fn connect_packets_are_whole() {
    let packet = cloud::connect_packet(Some("user"), Some(&"p".repeat(300))).expect("a packet");
    let [0x10, low, high, body @ ..] = packet.as_slice() else { panic!("{packet:?}") };
    assert_eq!(usize::from(low & 0x7F) | usize::from(*high) << 7, body.len());
    assert_eq!(&body[..8], b"\0\x04MQTT\x04\xC2");
    let without = cloud::connect_packet(None, Some("a password without a user is not sent"));
    assert_eq!(without.expect("a packet")[9], 0x02);
    assert!(cloud::connect_packet(Some(&"u".repeat(1 << 16)), None).is_none());
}

#[test]
fn bytes_for_people() {
    for (number, text) in [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1_000, "1.0 KB"),
        (4_096, "4.0 KB"),
        (8_589_934_592, "8.5 GB"),
        (u64::MAX, "18446744.0 TB"),
    ] {
        assert_eq!(bytes(number), text);
    }
}
