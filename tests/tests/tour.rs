//! The main job, end to end: the README's five minutes as pasted, and a real data set through the
//! whole chain with an outage and a kill.

#![allow(clippy::print_stdout, reason = "the figures of a run are worth a line")]

use pillion_tests::mosquitto::Mosquitto;
use pillion_tests::pillion::{self, TestDir, binary};
use pillion_tests::tool::{command, words};
use pillion_tests::{Desk, Pillion, Tool, until};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests stands in the root").into()
}

/// The blocks of code of a section, without their indent.
fn blocks(text: &str, section: &str) -> Vec<String> {
    let after = text.split_once(&format!("\n## {section}\n")).expect("the section is there").1;
    let section = after.split("\n## ").next().unwrap_or_default();
    let mut blocks = vec![String::new()];
    for line in section.lines() {
        match (line.strip_prefix("    "), blocks.last_mut()) {
            (Some(code), Some(block)) => block.push_str(&format!("{code}\n")),
            (None, Some(block)) if !block.is_empty() => blocks.push(String::new()),
            _ => {}
        }
    }
    blocks.retain(|block| !block.is_empty());
    blocks
}

/// What stands around the pasted blocks: each `terminal` is a shell of its own.
const TOUR: &str = r#"
# In a process namespace of its own: programs that are ended by name below are those started here.
[ $$ = 1 ] || exit 1
ip link set lo up
# The binary is built already.
cargo() {
    [ "$1 $2 $3" = "run --release --" ] || return 1
    shift 3
    "$BINARY" "$@"
}
python3() { command "${PILLION_TESTS_PYTHON:-python3}" "$@"; }
if [ "$(id -u)" = 0 ] && ! grep -q 4294967295 /proc/self/uid_map; then
    # Root of a namespace of an ordinary user cannot become the user mosquitto.
    mosquitto() {
        printf 'user root\nlistener %s 127.0.0.1\nallow_anonymous true\n' "$2" >"$HOME/mosquitto"
        command mosquitto -c "$HOME/mosquitto"
    }
fi
terminal() { (eval "$2") >"$HOME/$1" 2>&1 & }
ready() { for _ in $(seq 500); do curl -sf "$1" >/dev/null && return; sleep 0.02; done; echo "no $1"; }
listens() { for _ in $(seq 500); do (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null && return; sleep 0.02; done; echo "no $1"; }
results() { for _ in $(seq 500); do [ "$(grep -c site1/results/kitchen "$1")" -ge "$2" ] && return; sleep 0.02; done; echo "no $2 results"; }

terminal first "$FIRST"
ready 127.0.0.1:3500/v1.0/healthz
terminal second "$SECOND"
for _ in $(seq 500); do grep -q '(joined)' "$HOME/second" && break; sleep 0.02; done
ready "$(grep -o 'http://127[^ ]*' "$HOME/second")/v1.0/healthz"
eval "$DEVICE" >"$HOME/third"
results "$HOME/third" 1
echo "cloud $(head -1 "$HOME/third")"
eval "$CURL" | tr -d '\r'
echo

# The paragraph that follows: the cloud stops, more is published, a kill, everything again.
echo "outage"
pkill -x mosquitto
while pgrep -x mosquitto >/dev/null; do sleep 0.02; done
for n in 1 2 3; do
    mosquitto_pub -p 1883 -q 1 -t sensors/kitchen/temperature -m "{\"temp\": $((68 + n))}"
done
echo "kill"
pkill -9 -x pillion
while pgrep -x pillion >/dev/null; do sleep 0.02; done
pkill -x mosquitto_sub
mosquitto -p 1884 >/dev/null 2>&1 &
listens 1884
mosquitto_sub -p 1884 -t 'site1/#' -v >"$HOME/fourth" &
for _ in $(seq 500); do mosquitto_pub -p 1884 -t site1/up -m x; grep -q up "$HOME/fourth" && break; sleep 0.02; done
echo "restart"
terminal first "${FIRST#*&}"
ready 127.0.0.1:3500/v1.0/healthz
terminal second "$SECOND"
for _ in $(seq 500); do grep -q '"temp": *71' "$HOME/fourth" && break; sleep 0.02; done
grep site1/results "$HOME/fourth" | sed 's/^/again /'
"#;

#[tokio::test]
async fn the_five_minutes_of_the_readme_work_as_pasted() {
    let readme = fs::read_to_string(root().join("README.md")).expect("a README");
    let blocks = blocks(&readme, "Five minutes");
    let [first, second, device, curl] = blocks.as_slice() else { panic!("{blocks:#?}") };
    let home = TestDir::new();
    // SAFETY: it only reads the process's user id.
    let is_root = unsafe { libc::geteuid() } == 0;
    // A network of its own, so that every port is free, and processes that end with it.
    let alone = "--net --pid --fork --kill-child --mount-proc";
    let alone = if is_root { alone.to_owned() } else { format!("--map-root-user {alone}") };
    let mut shell = command("unshare", words(&alone));
    shell.args(["bash", "-c", TOUR]).current_dir(root());
    shell.env("HOME", home.path()).env("BINARY", binary());
    shell.env_remove("XDG_STATE_HOME").env_remove("STATE_DIRECTORY");
    shell.env("FIRST", first).env("SECOND", second).env("DEVICE", device).env("CURL", curl);
    let said = Tool::run(shell).await;
    let logs: Vec<_> = ["first", "second", "third", "fourth"]
        .map(|name| fs::read_to_string(home.path().join(name)).unwrap_or_default())
        .into();
    let logs = logs.join("\n--\n");

    // The first result: 68.5 °F are 20.278 °C.
    let cloud = said.out.iter().find_map(|line| line.strip_prefix("cloud site1/results/kitchen "));
    let cloud = cloud.unwrap_or_else(|| panic!("no result in the cloud: {said:#?}\n{logs}"));
    let cloud: serde_json::Value = serde_json::from_str(cloud).expect("JSON");
    assert_eq!(cloud["reading"]["temp"], 68.5, "{cloud}");
    assert_eq!((&cloud["count"], &cloud["average"]), (&1.into(), &20.278.into()), "{cloud}");
    // The state that was kept, the answers to the app's own state.
    let text = said.out.join("\n");
    for wanted in [r#""sum":20.278"#, "HTTP/1.1 200 OK", r#""hello""#] {
        assert!(text.contains(wanted), "no {wanted} in {said:#?}\n{logs}");
    }
    // After the outage and the kill: everything, in order. A message may come twice.
    let again =
        said.out.iter().filter_map(|line| line.strip_prefix("again site1/results/kitchen "));
    let mut seen = Vec::new();
    let readings = again
        .map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON"))
        .map(|result| result["reading"]["temp"].as_f64().expect("a temperature"))
        .filter(|temp| *temp > 68.5);
    for temp in readings {
        if !seen.contains(&temp) {
            seen.push(temp);
        }
    }
    assert_eq!(seen, [69.0, 70.0, 71.0], "{said:#?}\n{logs}");
}

/// Readings that go through the chain.
const READINGS: usize = 3000;

/// Hourly temperatures of Seattle as the package `vega-datasets` ships them: (date, temperature).
async fn readings() -> Vec<(String, f64)> {
    let script = "
import csv, importlib.util, os
found = importlib.util.find_spec('vega_datasets')
folder = found.submodule_search_locations[0]
with open(os.path.join(folder, '_data', 'seattle-temps.csv')) as file:
    for row in csv.DictReader(file):
        print(row['date'] + ',' + row['temp'])
";
    let dir = TestDir::new();
    let file = dir.path().join("readings.py");
    fs::write(&file, script).expect("a writable file");
    let said = Tool::run(pillion_tests::tool::python(&file)).await.expect_success();
    let rows = said.out.iter().filter_map(|line| line.rsplit_once(','));
    let rows = rows.map(|(date, temp)| (date.to_owned(), temp.parse().expect("a number")));
    let rows: Vec<_> = rows.take(READINGS).collect();
    assert_eq!(rows.len(), READINGS, "vega-datasets ships more");
    rows
}

/// The tour's resources with another broker.
fn cloud(port: u16) -> String {
    let file = root().join("configs/tour/resources/cloud.yaml");
    let text = fs::read_to_string(file).expect("the tour's resources");
    text.replace("127.0.0.1:1884", &format!("127.0.0.1:{port}"))
}

fn app(name: &str) -> String {
    root().join("configs/tour").join(name).display().to_string()
}

/// The gateway and its first app.
async fn start(desk: &Desk) -> (Pillion, Pillion) {
    let pillion = desk.start().await;
    let port = pillion_tests::pillion::free_port().to_string();
    let arguments = ["run", "--app-id", "calibrate", "--app-port", &port, "--data-dir"];
    let mut second = pillion::command(arguments);
    second.arg(desk.data_dir()).args(["--", &python(), &app("calibrate.py")]);
    let second = Pillion::spawn(second, 0, 0, TestDir::new());
    until("the second app", || async { second.log().contains("(joined)").then_some(()) }).await;
    // What nobody has subscribed to is not kept.
    until("the subscription", || async {
        let metadata = pillion.get("/v1.0/metadata").await.json();
        metadata["subscriptions"].is_array().then_some(())
    })
    .await;
    (pillion, second)
}

fn python() -> String {
    std::env::var("PILLION_TESTS_PYTHON").unwrap_or_else(|_| "python3".into())
}

/// Publishes as a device does; every line is acknowledged when this returns.
async fn publish(desk: &Desk, rows: &[(String, f64)]) {
    let line = |(date, temp): &(String, f64)| format!("{{\"date\":\"{date}\",\"temp\":{temp}}}\n");
    let port = desk.mqtt().port().to_string();
    let mut device = command("mosquitto_pub", ["-p", &port, "-i", "sensor", "-q", "1", "-l"]);
    device.args(["-t", "sensors/seattle/temperature"]);
    Tool::start_with(device, rows.iter().map(line).collect()).ended().await.expect_success();
}

#[tokio::test]
async fn every_reading_of_a_year_reaches_the_cloud() {
    let rows = readings().await;
    let mut mosquitto = Mosquitto::new();
    mosquitto.start().await;
    let port = mosquitto.port.to_string();
    let subscribe = format!("-p {port} -i cloud -c -q 1 -t site1/results/seattle");
    let cloud_log =
        Tool::start(command("stdbuf", words(&format!("-oL mosquitto_sub {subscribe}"))));
    let app_port = pillion_tests::pillion::free_port().to_string();
    let desk = Desk::new()
        .resource("cloud.yaml", &cloud(mosquitto.port))
        .args(["--app-id", "average", "--app-port", &app_port])
        .command([python(), app("average.py")]);
    let (mut pillion, _second) = start(&desk).await;
    let batches: Vec<_> = rows.chunks(READINGS / 3).collect();

    // All is well, until the cloud is gone in the middle of it.
    publish(&desk, batches[0]).await;
    until(&format!("the first readings\n{}", pillion.log()), || async {
        (cloud_log.out().len() > READINGS / 30).then_some(())
    })
    .await;
    mosquitto.stop();
    publish(&desk, batches[1]).await;
    // The app is still at it, and results wait for the cloud: a kill.
    pillion.signal(libc::SIGKILL);
    pillion.ended().await;
    let (pillion, _second) = start(&desk).await;
    publish(&desk, batches[2]).await;
    mosquitto.start().await;

    // Everything arrives once the cloud is back.
    let begun = std::time::Instant::now();
    let order: BTreeMap<_, _> =
        rows.iter().enumerate().map(|(n, row)| (row.0.as_str(), n)).collect();
    assert_eq!(order.len(), rows.len(), "each hour once");
    let arrived = loop {
        let lines = cloud_log.out();
        let arrived: Vec<serde_json::Value> =
            lines.iter().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        let distinct: BTreeSet<_> =
            arrived.iter().filter_map(|result| result["reading"]["date"].as_str()).collect();
        if distinct.len() == rows.len() {
            break arrived;
        }
        assert!(
            begun.elapsed() < 2 * pillion_tests::PATIENCE,
            "{} of {} readings\n{}",
            distinct.len(),
            rows.len(),
            pillion.log()
        );
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    };
    let mut highest = None;
    let mut twice = 0;
    for result in &arrived {
        let date = result["reading"]["date"].as_str().expect("a date");
        let number = order[date];
        assert_eq!(result["reading"]["temp"].as_f64(), Some(rows[number].1), "{result}");
        if highest.is_some_and(|highest| number <= highest) {
            // One that is known is allowed, one that was overtaken is not: all before are known.
            twice += 1;
            continue;
        }
        let expected = highest.map_or(0, |highest| highest + 1);
        assert_eq!(number, expected, "{date} overtook {}", rows[expected].0);
        highest = Some(number);
    }
    println!("{} readings in the cloud, {twice} of them twice", rows.len());
    assert!(!pillion.log().contains("panicked"), "{}", pillion.log());
}
