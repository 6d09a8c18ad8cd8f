//! What only the processor that a binary was built for can show, in the words of its own file.
//!
//! The smoke set is this file and those that `tests/smoke` lists: it is run for every target, under
//! an emulator where this machine cannot run the binary itself. What is here is what that set would
//! otherwise lack: that the binary is what it says it is, and TLS as a client, whose ciphers are
//! assembly of their own on each processor. The judges are mosquitto and openssl.

use pillion_tests::mosquitto::Mosquitto;
use pillion_tests::pillion::{self, TestDir, binary, free_port};
use pillion_tests::tool::{command, words};
use pillion_tests::{Desk, PATIENCE, Setup, Tool, certificates, mqtt, until};
use std::fs;

/// Processors as an ELF header numbers them and as the program names them.
const PROCESSORS: [(u16, &str); 3] = [(40, "arm"), (62, "x86_64"), (183, "aarch64")];

#[tokio::test]
async fn the_binary_says_what_it_is_built_for() {
    let header = fs::read(binary()).expect("the binary is a file");
    assert_eq!(header.get(..4), Some(b"\x7fELF".as_slice()), "{}", binary().display());
    let machine = u16::from_le_bytes([header[18], header[19]]);
    let known = PROCESSORS.iter().find(|(number, _)| *number == machine);
    let (_, name) = known.unwrap_or_else(|| panic!("processor {machine} is not known here"));
    let said = Tool::run(pillion::command(["version"])).await.expect_success();
    assert!(said.out[0].contains(&format!(", {name}, ")), "{said:?}");
}

const LINK: &str = "
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: cloud}
spec:
  type: pubsub.mqtt3
  version: v1
  metadata:
  - {name: url, value: 'ssl://localhost:PORT'}
  - {name: consumerID, value: gateway}
  - {name: caCert, value: DIR/ca.pem}
  - {name: clientCert, value: DIR/client.pem}
  - {name: clientKey, value: DIR/client.key}
---
apiVersion: pillion/v1alpha1
kind: Link
metadata: {name: uplink}
spec:
  local: pubsub
  remote: cloud
  up:
  - {filter: 'up/#', mapTo: site/}
";

#[tokio::test]
async fn a_link_carries_over_tls() {
    const COUNT: usize = 50;
    let files = TestDir::new();
    certificates::write(files.path()).await;
    let (dir, port) = (files.path().display().to_string(), free_port());
    let mut mosquitto = Mosquitto::with(&format!(
        "listener {port} 127.0.0.1\ncafile {dir}/ca.pem\ncertfile {dir}/server.pem\n\
         keyfile {dir}/server.key\nrequire_certificate true\n"
    ));
    mosquitto.start().await;
    let (mut sender, mut cloud) =
        mqtt::connect(mosquitto.address(), "cloud", true).await.expect("mosquitto runs");
    sender.subscribe("site/up/#", 0).await.expect("mosquitto runs");
    cloud.next_of(9).await.expect("a SUBACK");
    let link = LINK.replace("PORT", &port.to_string()).replace("DIR", &dir);
    let desk = Desk::new().resource("link.yaml", &link);
    let pillion = desk.start().await;
    pillion.has_queue("link/uplink/").await;

    // Texts of all lengths, so that records of all lengths are encrypted.
    let texts: Vec<_> = (0..COUNT).map(|n| "x".repeat(1 + n * 97)).collect();
    let port = desk.mqtt().port().to_string();
    let device = command("mosquitto_pub", ["-p", &port, "-q", "1", "-t", "up/a", "-l"]);
    Tool::start_with(device, texts.join("\n") + "\n").ended().await.expect_success();
    for text in texts {
        let packet = tokio::time::timeout(PATIENCE, cloud.next_of(3)).await;
        let packet = packet.unwrap_or_else(|_| panic!("waited\n{}", pillion.log()));
        let packet = packet.expect("mosquitto runs");
        assert_eq!(String::from_utf8_lossy(packet.publish().2), text);
    }
}

#[tokio::test]
async fn an_app_is_called_over_tls() {
    let files = TestDir::new();
    certificates::write(files.path()).await;
    for (version, suite) in [
        ("-tls1_3 -ciphersuites", "TLS_AES_128_GCM_SHA256"),
        ("-tls1_3 -ciphersuites", "TLS_AES_256_GCM_SHA384"),
        ("-tls1_3 -ciphersuites", "TLS_CHACHA20_POLY1305_SHA256"),
        ("-tls1_2 -cipher", "ECDHE-ECDSA-AES128-GCM-SHA256"),
    ] {
        let port = free_port().to_string();
        // It answers every request with a page about the connection it came over.
        let arguments = format!("s_server -www -accept {port} {version} {suite}");
        let mut server = command("openssl", words(&arguments));
        server.current_dir(files.path()).args(["-cert", "server.pem", "-key", "server.key"]);
        let server = Tool::start(server);
        until("openssl's port", || async {
            tokio::net::TcpStream::connect(format!("127.0.0.1:{port}")).await.ok()
        })
        .await;
        let setup = Setup::new().args(["--app-port", &port, "--app-protocol", "https"]);
        let mut pillion = setup.spawn();
        pillion.ready("/v1.0/healthz/outbound").await;
        let page = pillion.get("/v1.0/invoke/app1/method/any").await;
        let text = page.text();
        let wanted = format!("Cipher    : {suite}");
        assert!(page.status == 200 && text.contains(&wanted), "{page:?}\n{server:?}");
    }
}
