//! Clients that nobody here wrote: mosquitto's, and paho where Python has it. A machine without
//! them says so and passes.

use super::peer::{PATIENCE, Serving};
use crate::api::mqtt::tls;
use crate::broker::packet::{Qos, Version};
use crate::resources::{MqttTlsPlan, MqttUserPlan};
use std::process::Stdio;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

#[expect(clippy::print_stdout, reason = "the reader of the test's output shall know")]
fn is_missing(program: &str) -> bool {
    let found = std::process::Command::new("sh")
        .args(["-c", &format!("command -v {program}")])
        .stdout(Stdio::null())
        .status();
    let missing = !found.is_ok_and(|status| status.success());
    if missing {
        println!("{program} is not installed: nothing was tested with it");
    }
    missing
}

fn start(program: &str, args: &[&str]) -> Child {
    Command::new(program)
        .args(args)
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .kill_on_drop(true)
        .spawn()
        .expect("it starts")
}

async fn succeeds(program: &str, args: &[&str]) {
    let mut child = start(program, args);
    let ended = tokio::time::timeout(PATIENCE, child.wait()).await.expect("in time");
    assert!(ended.expect("it ended").success(), "{program} {args:?}");
}

async fn output_of(child: Child) -> String {
    let output = tokio::time::timeout(PATIENCE, child.wait_with_output()).await.expect("in time");
    String::from_utf8(output.expect("it ended").stdout).expect("UTF-8")
}

#[tokio::test]
async fn mosquittos_clients_speak_with_the_door() {
    if is_missing("mosquitto_pub") || is_missing("mosquitto_sub") {
        return;
    }
    let serving = Serving::real(Vec::new(), None).await;
    let port = serving.address.port().to_string();
    for version in ["311", "5"] {
        for qos in ["0", "1", "2"] {
            let common = ["-h", "127.0.0.1", "-p", &port, "-V", version, "-q", qos];
            let topic = format!("m/{version}/{qos}");
            let publish = ["-t", &topic, "-m", "kept", "-r"];
            succeeds("mosquitto_pub", &[&common[..], &publish[..]].concat()).await;
            let filter = format!("m/{version}/+");
            let subscribe = ["-t", &filter, "-C", "2", "-F", "%t %p %r %q"];
            let mut reader = start("mosquitto_sub", &[&common[..], &subscribe[..]].concat());
            // The retained message shows that it is subscribed.
            let mut lines = BufReader::new(reader.stdout.take().expect("piped")).lines();
            let line = lines.next_line().await.expect("read");
            assert_eq!(line, Some(format!("{topic} kept 1 {qos}")));
            let publish = ["-t", &topic, "-m", "live"];
            succeeds("mosquitto_pub", &[&common[..], &publish[..]].concat()).await;
            let line = lines.next_line().await.expect("read");
            assert_eq!(line, Some(format!("{topic} live 0 {qos}")));
            let forget = ["-t", &topic, "-n", "-r"];
            succeeds("mosquitto_pub", &[&common[..], &forget[..]].concat()).await;
        }
    }
    serving.stop().await;
}

#[tokio::test]
async fn mosquittos_clients_keep_a_session() {
    if is_missing("mosquitto_pub") || is_missing("mosquitto_sub") {
        return;
    }
    let serving = Serving::real(Vec::new(), None).await;
    let port = serving.address.port().to_string();
    let session = ["-h", "127.0.0.1", "-q", "1", "-t", "s/#", "-i", "lasting", "-c"];
    // Subscribes and leaves.
    succeeds("mosquitto_sub", &[&session[..], &["-p", &port, "-E"]].concat()).await;
    let mut writer = serving.client(Version::V4, "writer").await;
    for number in 0..100 {
        writer.publish("s/x", &number.to_string()).await;
    }
    // A part is read from this door, the rest from the next.
    let reader = start("mosquitto_sub", &[&session[..], &["-p", &port, "-C", "40"]].concat());
    let read = output_of(reader).await;
    let serving = Serving::over(serving.stop().await, Vec::new(), None).await;
    let port = serving.address.port().to_string();
    let reader = start("mosquitto_sub", &[&session[..], &["-p", &port, "-W", "2"]].concat());
    let rest = output_of(reader).await;
    let numbers = |text: &str| text.lines().filter_map(|line| line.parse().ok()).collect();
    let (read, rest): (Vec<u32>, Vec<u32>) = (numbers(&read), numbers(&rest));
    assert_eq!(read, (0..40).collect::<Vec<_>>());
    // What it had and not acknowledged may come again.
    assert!(rest.first().is_some_and(|first| *first <= 40), "{rest:?}");
    assert!(rest.is_sorted() && rest.last() == Some(&99), "{rest:?}");
    assert_eq!(rest.len(), 100 - usize::try_from(rest[0]).expect("small"));
    serving.stop().await;
}

/// An authority, a server and a client, made by openssl in this directory.
fn make_certificates(directory: &std::path::Path) {
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2";
    let leaf =
        format!("-x509 -CA ca.pem -CAkey ca.key -addext basicConstraints=critical,CA:FALSE {key}");
    let script = format!(
        "openssl req -x509 {key} -keyout ca.key -out ca.pem -subj /CN=authority &&
         openssl req {leaf} -keyout s.key -out s.pem -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1 &&
         openssl req {leaf} -keyout c.key -out c.pem -subj /O=Fleet/CN=sensor-7"
    );
    let mut shell = std::process::Command::new("sh");
    let made = shell.args(["-c", &script]).current_dir(directory).output().expect("a shell");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

#[tokio::test]
async fn certificates_name_their_users() {
    if is_missing("mosquitto_pub") || is_missing("openssl") {
        return;
    }
    let id = pillion_components::env::uuid();
    let directory = std::env::temp_dir().join(format!("pillion-tls-{id}"));
    std::fs::create_dir(&directory).expect("a directory");
    make_certificates(&directory);
    let path = |name: &str| directory.join(name);
    let plan = MqttTlsPlan {
        listen: ([127, 0, 0, 1], 0).into(),
        certificate: path("s.pem"),
        key: path("s.key"),
        client_ca: Some(path("ca.pem")),
    };
    let user = MqttUserPlan {
        name: "sensor-7".into(),
        password_hash: None,
        publish: vec!["%u/#".into()],
        subscribe: vec!["%u/#".into()],
    };
    let acceptor = tls::acceptor(&plan).expect("the files are good");
    let serving = Serving::real(vec![user], Some(acceptor)).await;
    let port = serving.address.port().to_string();
    let text = |name| path(name).display().to_string();
    let (ca, cert, key) = (text("ca.pem"), text("c.pem"), text("c.key"));
    let common = ["-h", "127.0.0.1", "-p", &port, "-V", "5", "-q", "1", "--cafile", &ca];
    let certified = [&common[..], &["--cert", &cert, "--key", &key]].concat();
    succeeds("mosquitto_pub", &[&certified[..], &["-t", "sensor-7/x", "-m", "1", "-r"]].concat())
        .await;
    succeeds("mosquitto_sub", &[&certified[..], &["-t", "sensor-7/+", "-C", "1"]].concat()).await;
    // Without a certificate it is one who must say who it is, and this user has no password.
    let nameless = [&common[..], &["-t", "a", "-m", "1"]].concat();
    let named = [&nameless[..], &["-u", "sensor-7", "-P", "x"]].concat();
    for arguments in [nameless, named] {
        let mut refused = start("mosquitto_pub", &arguments);
        assert!(!refused.wait().await.expect("it ended").success(), "{arguments:?}");
    }
    serving.stop().await;
    std::fs::remove_dir_all(&directory).expect("removed");
}

const PAHO: &str = r#"
import sys, threading
import paho.mqtt.client as mqtt
from paho.mqtt.properties import Properties
from paho.mqtt.packettypes import PacketTypes
port = int(sys.argv[1])
done, subscribed = threading.Event(), threading.Event()
c = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id="", protocol=mqtt.MQTTv5)
got = []
def on_message(c, u, m):
    got.append(m)
    if len(got) == 50: done.set()
c.on_message = on_message
c.on_subscribe = lambda *a: subscribed.set()
c.connect("127.0.0.1", port)
c.loop_start()
c.subscribe("p/+", qos=2)
assert subscribed.wait(5), "no SUBACK"
p = Properties(PacketTypes.PUBLISH)
p.UserProperty = [("a", "1"), ("a", "2")]
p.ResponseTopic = "p/answer"
p.CorrelationData = b"\x00\xff"
p.ContentType = "text/plain"
p.MessageExpiryInterval = 60
for n in range(50):
    c.publish("p/x", str(n), qos=n % 3, properties=p).wait_for_publish(5)
assert done.wait(5), len(got)
for n, m in enumerate(got):
    assert m.payload == str(n).encode() and m.qos == n % 3, (n, m.payload, m.qos)
    q = m.properties
    assert q.UserProperty == [("a", "1"), ("a", "2")] and q.ResponseTopic == "p/answer"
    assert q.CorrelationData == b"\x00\xff" and q.ContentType == "text/plain"
c.disconnect()
c.loop_stop()
print("good")
"#;

#[tokio::test]
async fn paho_speaks_with_the_door() {
    if is_missing("python3 && python3 -c 'import paho.mqtt'") {
        return;
    }
    let serving = Serving::real(Vec::new(), None).await;
    let port = serving.address.port().to_string();
    assert_eq!(output_of(start("python3", &["-c", PAHO, &port])).await, "good\n");
    // A client of the other version sees the same topics.
    let mut old = serving.client(Version::V4, "old").await;
    old.subscribe("p/+", Qos::AtMostOnce).await;
    old.expect_silence().await;
    serving.stop().await;
}
