//! The running service, the machine around it, and the run itself.

use super::super::running::Running;
use super::super::scene::Scene;
use super::super::{
    Findings, Group, Level, bytes, clock, cloud, data, examine, memory, ports, report, running,
    service,
};
use super::disks::emmc;
use super::{Fake, found, said};
use crate::resources::LinkPlan;
use pillion_components::env::Clock;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

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
    assert_eq!(by_words.data_dir_flag(&fake.root()), Some("/d".into()));
}

#[test]
fn memory_and_swap_are_judged() {
    let meminfo =
        |available: u32| format!("MemTotal:         512000 kB\nMemAvailable:     {available} kB\n");
    let swaps = "Filename Type Size Used Priority\n/dev/zram0 partition 1 0 5\n";
    let fake = Fake::new(&[("proc/meminfo", &meminfo(256_000)), ("proc/swaps", swaps)]);
    let findings = said(memory::check, fake.scene());
    assert_eq!(found(&findings, "memory").0, Level::Ok);
    assert_eq!(findings.len(), 1, "zram is no flash: {findings:?}");
    fs::write(fake.0.join("proc/meminfo"), meminfo(8_000)).expect("a file");
    assert_eq!(found(&said(memory::check, fake.scene()), "memory").0, Level::Warn);

    let fake = emmc("0x01 0x01", "0x01");
    let swaps = "Filename Type Size Used Priority\n/dev/mmcblk0p2 partition 1 0 5\n";
    fs::write(fake.0.join("proc/swaps"), swaps).expect("a file");
    assert_eq!(found(&said(memory::check, fake.scene()), "swap").0, Level::Warn);
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

/// A process that runs as nobody here.
fn with_process(mut scene: Scene, metrics: &str) -> Scene {
    scene.running = Some(Running { pid: 700, uid: 1234, gid: 1234, uptime_s: Some(60) });
    scene.metrics = Some(metrics.into());
    scene
}

#[test]
fn trouble_of_the_running_service_is_told() {
    let fake = Fake::new(&[("proc/700/cgroup", "0::/system.slice/pillion.service\n")]);
    let well = "pillion_storage_full{} 0\npillion_storage_unhealthy{} 0\n\
                pillion_link_connected{link=\"up\"} 1\n";
    for (metrics, level, part) in [
        (well.to_owned(), Level::Ok, "no trouble"),
        (well.replace("full{} 0", "full{} 1"), Level::Fail, "full"),
        (well.replace("unhealthy{} 0", "unhealthy{} 1"), Level::Fail, "not healthy"),
    ] {
        let scene = with_process(fake.scene(), &metrics);
        let (is, text) = found(&said(service::check, scene), "storage");
        assert_eq!((is, text.contains(part)), (level, true), "{metrics}: {text}");
    }
    for (up, level) in [("1", Level::Ok), ("0", Level::Warn)] {
        let metrics = well.replace("\"} 1", &format!("\"}} {up}"));
        let mut scene = with_process(fake.scene(), &metrics);
        let (local, remote) = ("pubsub".into(), "cloud".into());
        scene.plan.links =
            vec![LinkPlan { name: "up".into(), local, remote, up: vec![], down: vec![] }];
        assert_eq!(found(&said(service::check, scene), "link up").0, level, "{up}");
    }
    for (variables, level) in [("A=b\0WATCHDOG_USEC=30000000\0", Level::Ok), ("A=b\0", Level::Warn)]
    {
        fs::write(fake.0.join("proc/700/environ"), variables).expect("a file");
        let scene = with_process(fake.scene(), well);
        let (is, text) = found(&said(service::check, scene), "systemd");
        assert_eq!((is, text.starts_with("pillion.service")), (level, true), "{text}");
    }
}

#[test]
fn a_service_that_does_not_run_is_told_with_its_unit() {
    let fake = Fake::new(&[("run/systemd/system/x", ""), ("data/lock", "")]);
    let running = || found(&said(service::check, fake.scene()), "running");
    assert_eq!(running().0, Level::Skip, "there is no unit");
    fs::create_dir_all(fake.0.join("lib/systemd/system")).expect("a folder");
    fs::write(fake.0.join("lib/systemd/system/pillion.service"), "").expect("a file");
    let (level, text) = running();
    assert_eq!((level, text.contains("at boot")), (Level::Warn, true), "{text}");
    fake.link("etc/systemd/system/multi-user.target.wants/pillion.service", "nowhere");
    let (level, text) = running();
    assert_eq!((level, text.contains("enabled")), (Level::Warn, true), "{text}");
}

#[test]
fn a_clock_that_is_not_set_is_told() {
    let fake = Fake::new(&[("data/lock", "")]);
    let at = |now_s: i64| {
        let mut scene = fake.scene();
        scene.now_s = now_s;
        said(clock::check, scene)
    };
    let now = Clock::system().wall_ms() as i64 / 1000 + 60;
    assert_eq!(found(&at(86_400), "time").0, Level::Fail, "1970");
    let findings = at(now);
    assert_eq!(found(&findings, "time").0, Level::Ok, "{findings:?}");
    assert_eq!(found(&findings, "clock chip").0, Level::Ok, "there is none");
    // What was written lies in the future of a clock that fell back.
    let file = fs::File::open(fake.0.join("data/lock")).expect("a file");
    let later = std::time::UNIX_EPOCH + Duration::from_secs(now as u64 + 90_000);
    file.set_modified(later).expect("our own file");
    let (level, text) = found(&at(now), "time");
    assert_eq!((level, text.contains("last written")), (Level::Fail, true), "{text}");
    for (chip, level) in [(now + 60, Level::Ok), (now - 90_000, Level::Warn)] {
        let dir = fake.0.join("sys/class/rtc/rtc0");
        fs::create_dir_all(&dir).expect("a folder");
        fs::write(dir.join("since_epoch"), chip.to_string()).expect("a file");
        assert_eq!(found(&at(now), "clock chip").0, level);
    }
}

#[test]
fn a_memory_limit_below_the_need_is_told() {
    let fake = Fake::new(&[
        ("proc/meminfo", "MemTotal: 512000 kB\nMemAvailable: 256000 kB\n"),
        ("proc/700/cgroup", "1:name=x:/\n0::/system.slice/p.service\n"),
        ("proc/700/status", "Name: x\nVmRSS:\t 7000 kB\n"),
        ("sys/fs/cgroup/system.slice/p.service/memory.max", "8388608\n"),
    ]);
    let limit = || said(memory::check, with_process(fake.scene(), ""));
    assert_eq!(found(&limit(), "limit").0, Level::Warn);
    let file = fake.0.join("sys/fs/cgroup/system.slice/p.service/memory.max");
    fs::write(&file, "134217728\n").expect("a file");
    assert_eq!(found(&limit(), "limit").0, Level::Ok);
    fs::write(&file, "max\n").expect("a file");
    assert!(limit().iter().all(|finding| finding.name != "limit"));
}

#[test]
fn a_data_directory_of_somebody_else_is_told() {
    let fake =
        Fake::new(&[("etc/passwd", "root:x:0:0::/:/\nx:x:1234:1234::/:/\n"), ("data/x", "")]);
    let mode = |mode: u32| {
        let data = fake.0.join("data");
        fs::set_permissions(data, fs::Permissions::from_mode(mode)).expect("our own folder");
        found(&said(data::check, with_process(fake.scene(), "")), "directory")
    };
    let (level, text) = mode(0o755);
    assert_eq!((level, text.contains("the service runs as x")), (Level::Fail, true), "{text}");
    assert_eq!(mode(0o777).0, Level::Ok);
}

#[test]
fn a_check_that_hangs_ends_with_the_run() {
    fn hang(_: &Arc<Scene>, _: &mut Findings) {
        std::thread::park();
    }
    fn panic(_: &Arc<Scene>, _: &mut Findings) {
        panic!("on purpose")
    }
    fn answer(_: &Arc<Scene>, out: &mut Findings) {
        out.ok(&"x", &"y");
    }
    const GROUPS: &[Group] = &[
        Group { name: "hangs", check: hang },
        Group { name: "panics", check: panic },
        Group { name: "answers", check: answer },
    ];
    let fake = Fake::new(&[]);
    let deadline = Instant::now() + Duration::from_millis(200);
    let scene = Arc::new(fake.scene());
    let findings = examine(&scene, GROUPS, deadline);
    let levels: Vec<_> = findings.iter().map(|(name, list)| (*name, list.0[0].level)).collect();
    let expected = [("hangs", Level::Fail), ("panics", Level::Fail), ("answers", Level::Ok)];
    assert_eq!(levels, expected);
    let (text, code) = report(&scene, &findings, false);
    assert!(text.contains("FAIL hangs: answer: none within") && code == 1, "{text}");
}
