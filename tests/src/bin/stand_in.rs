//! A release that does not work, or only just: stands in for Pillion in tests of updates.
//!
//! What it is stands behind the end of its program, as `stand-in version=… storage=… mode=…;`, so
//! that one build makes any of them.

use std::io::Write as _;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

fn main() {
    let exe = std::fs::read("/proc/self/exe").unwrap_or_default();
    let tail = String::from_utf8_lossy(exe.get(exe.len().saturating_sub(256)..).unwrap_or(&[]));
    let facts = tail.rsplit_once("stand-in ").map_or("", |(_, facts)| facts);
    let fact = |name: &str| {
        let of_name = |word: &str| word.strip_prefix(name)?.strip_prefix('=').map(str::to_owned);
        facts.trim_end_matches(';').split(' ').find_map(of_name).unwrap_or_default()
    };
    if std::env::args().nth(1).as_deref() == Some("version") {
        let (version, storage) = (fact("version"), fact("storage"));
        let text = format!("pillion {version} (stand-in, storage format {storage})\n");
        let _ = std::io::stdout().write_all(text.as_bytes());
        return;
    }
    match fact("mode").as_str() {
        "exits" => std::process::exit(3),
        "hangs" => {}
        "dies" => {
            tell("READY=1");
            tell("WATCHDOG=1");
            std::process::exit(4);
        }
        "is-silent" => tell("READY=1"),
        "works" => {
            tell("READY=1");
            let period = std::env::var("WATCHDOG_USEC").ok().and_then(|text| text.parse().ok());
            let period = Duration::from_micros(period.unwrap_or(1_000_000) / 3);
            loop {
                std::thread::sleep(period);
                tell("WATCHDOG=1");
            }
        }
        mode => panic!("no such mode: {mode}"),
    }
    loop {
        std::thread::park();
    }
}

fn tell(state: &str) {
    let path = std::env::var_os("NOTIFY_SOCKET").expect("a launcher that listens");
    let socket = UnixDatagram::unbound().expect("a socket");
    socket.send_to(state.as_bytes(), path).expect("a launcher that listens");
}
