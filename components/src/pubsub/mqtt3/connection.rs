//! The connection to the broker: one task that connects, feeds the hub, and waits when it breaks.
//!
//! Every connection has a client of its own that is dropped with it, and with the client all it
//! had queued. So nothing is sent later that a caller was told has failed, and the client's list
//! of pending messages is never the truth: the callers' queues are.

use super::hub::Hub;
use super::settings::Settings;
use crate::backoff::Backoff;
use crate::env;
use rumqttc::{AsyncClient, ConnectionError, Event, EventLoop, MqttOptions, Outgoing, Packet};
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, ready};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

/// Time for name, TCP, TLS and CONNACK together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// Time for one of several addresses of a name.
const ADDRESS_TIMEOUT: Duration = Duration::from_secs(5);
/// Time in which a large message must have left for the kernel: on the slowest uplink a megabyte
/// takes minutes. A dead connection is found earlier, see [`UNACKNOWLEDGED_MAX`].
const FLUSH_TIMEOUT: Duration = Duration::from_secs(300);
/// How long the kernel waits for the other side to confirm bytes before it gives the connection
/// up; without it a cut cable is noticed after a quarter of an hour.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(30);
/// The wait after the first failure.
const RECONNECT_MIN: Duration = Duration::from_millis(250);
/// A connection that lasted this long was a good one: the next wait is the shortest again. Without
/// this a broker that accepts and then cuts us off would be called four times a second.
const STABLE: Duration = Duration::from_secs(10);
/// A filter that nobody subscribes to.
const NO_FILTER: &str = "$pillion/none";
/// Time for saying goodbye.
const DISCONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Keeps a connection until `closing` says true or its sender is gone. Between attempts nothing
/// runs but one timer.
pub(super) async fn run(hub: Arc<Hub>, settings: Settings, mut closing: watch::Receiver<bool>) {
    let reconnect_max_ms = u64::try_from(settings.reconnect_max.as_millis()).unwrap_or(u64::MAX);
    let reconnect_min_ms = u64::try_from(RECONNECT_MIN.as_millis()).unwrap_or(u64::MAX);
    let mut backoff =
        Backoff::new(reconnect_min_ms.min(reconnect_max_ms), reconnect_max_ms, env::random_u64());
    let options = with_connector(settings);
    loop {
        let started = Instant::now();
        match connection(&hub, &options, &mut closing).await {
            End::Closed => return hub.closed(),
            // It was our own wish, after a full queue was worked off: the broker is well.
            End::Renew(reason) => {
                hub.renewing(reason);
                continue;
            }
            End::Broken(reason) => hub.disconnected(&reason),
        }
        if started.elapsed() >= STABLE {
            backoff.reset();
        }
        tokio::select! {
            () = sleep(Duration::from_millis(backoff.next_ms())) => {}
            () = closed(&mut closing) => return,
        }
    }
}

/// Resolves when we are told to end. Cancel safe.
async fn closed(closing: &mut watch::Receiver<bool>) {
    // An error means that the component is dropped, which is the same news.
    let _ = closing.wait_for(|closing| *closing).await;
}

/// Why a connection ended.
enum End {
    /// We were told to.
    Closed,
    /// We want a new one, so that the broker sends again what was left with it.
    Renew(&'static str),
    /// Anything else, in words for a person.
    Broken(String),
}

/// One connection from its first to its last packet.
async fn connection(hub: &Hub, options: &MqttOptions, closing: &mut watch::Receiver<bool>) -> End {
    // Unbounded, because what goes in is bounded outside: publishes by their permits,
    // acknowledgements by the queues, subscriptions by their number.
    let built = AsyncClient::builder(options.clone()).unbounded().try_build();
    let (client, mut events) = match built {
        Ok(built) => built,
        Err(error) => return End::Broken(error.to_string()),
    };
    events.network_options.set_connection_timeout(FLUSH_TIMEOUT.as_secs());
    let first = tokio::select! {
        first = timeout(CONNECT_TIMEOUT, events.poll()) => first,
        () = closed(closing) => return End::Closed,
    };
    match first {
        Ok(Ok(Event::Incoming(Packet::ConnAck(answer)))) => {
            hub.connected(client.clone(), answer.session_present);
        }
        Ok(Ok(other)) => return End::Broken(format!("unexpected first packet: {other:?}")),
        Ok(Err(error)) => return End::Broken(describe(&error)),
        Err(_) => return End::Broken("no answer in time".into()),
    }
    loop {
        tokio::select! {
            event = events.poll() => match event {
                Ok(event) => handle(hub, event),
                Err(error) => return End::Broken(describe(&error)),
            },
            reason = hub.reset_wanted() => {
                say_goodbye(hub, &client, &mut events).await;
                return End::Renew(reason);
            }
            () = closed(closing) => {
                say_goodbye(hub, &client, &mut events).await;
                return End::Closed;
            }
        }
    }
}

fn handle(hub: &Hub, event: Event) {
    match event {
        Event::Incoming(Packet::Publish(publish)) => hub.arrived(&publish),
        Event::Incoming(Packet::SubAck(answer)) => {
            hub.subscribed(answer.pkid, &answer.return_codes);
        }
        Event::Incoming(Packet::UnsubAck(answer)) => hub.unsubscribed(answer.pkid),
        Event::Outgoing(Outgoing::Subscribe(id)) => hub.subscribe_sent(id),
        Event::Outgoing(Outgoing::Unsubscribe(id)) => hub.unsubscribe_sent(id),
        Event::Incoming(_) | Event::Outgoing(_) => {}
    }
}

/// Sends what waits, hears that the broker has read it, then DISCONNECT: so that the broker
/// neither repeats what is done with nor takes us for lost.
async fn say_goodbye(hub: &Hub, client: &AsyncClient, events: &mut EventLoop) {
    let goodbye = async {
        while has_requests(events) {
            handle(hub, events.poll().await?);
        }
        // A broker answers in order. Without this, closing a socket on which more has come than was
        // read could take our last words from it.
        if client.try_unsubscribe(NO_FILTER).is_ok() {
            while !matches!(events.poll().await?, Event::Incoming(Packet::UnsubAck(_))) {}
        }
        if client.try_disconnect_now().is_ok() {
            while events.poll().await.is_ok() {}
        }
        Ok::<(), ConnectionError>(())
    };
    // Whether it was heard makes no difference any more.
    let _ = timeout(DISCONNECT_TIMEOUT, goodbye).await;
}

fn has_requests(events: &EventLoop) -> bool {
    let queues = events.diagnostics().queues;
    queues.control_requests_rx_len + queues.requests_rx_len + queues.pending_len > 0
}

fn describe(error: &ConnectionError) -> String {
    match error {
        ConnectionError::ConnectionRefused(code) => format!("the broker refused us: {code:?}"),
        ConnectionError::NetworkTimeout => "no answer in time".into(),
        ConnectionError::Io(error) => error.to_string(),
        other => other.to_string(),
    }
}

/// The options with our own way to a socket: bounded name lookup, bounded time per address.
fn with_connector(settings: Settings) -> MqttOptions {
    let Settings { mut client, host, port, .. } = settings;
    let lookup = Lookup::default();
    client.set_socket_connector(move |_, _| {
        let (host, lookup) = (host.clone(), lookup.clone());
        async move { connect(&lookup.addresses(&host, port).await?).await }
    });
    client
}

async fn connect(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in addresses {
        match timeout(ADDRESS_TIMEOUT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                stream.set_nodelay(true)?;
                bound_unacknowledged(&stream);
                return Ok(stream);
            }
            Ok(Err(error)) => last = error,
            Err(_) => last = io::Error::new(io::ErrorKind::TimedOut, "no answer in time"),
        }
    }
    Err(last)
}

/// Sets `TCP_USER_TIMEOUT`. Where a kernel does not know it, keep-alive finds the end, only later.
fn bound_unacknowledged(stream: &TcpStream) {
    let ms = libc::c_uint::try_from(UNACKNOWLEDGED_MAX.as_millis()).unwrap_or(libc::c_uint::MAX);
    let size = libc::socklen_t::try_from(size_of_val(&ms)).unwrap_or_default();
    // SAFETY: the descriptor is open for the whole call, and the pointer and size name a live
    // `c_uint`, which is what this option takes.
    unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_USER_TIMEOUT,
            (&raw const ms).cast(),
            size,
        );
    }
}

/// Name lookup with at most one question under way: a resolver without a network can hold its
/// thread for longer than an attempt lasts, and must not take one more thread per attempt.
#[derive(Clone, Default)]
struct Lookup {
    under_way: Arc<Mutex<Option<Question>>>,
}

type Question = JoinHandle<io::Result<Vec<SocketAddr>>>;

impl Lookup {
    async fn addresses(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        if let Ok(address) = host.parse() {
            return Ok(vec![SocketAddr::new(address, port)]);
        }
        // A dropped attempt leaves its question in the slot for the next one.
        poll_fn(|context| {
            let mut slot = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
            let question = slot.get_or_insert_with(|| {
                let host = host.to_owned();
                tokio::spawn(
                    async move { Ok(tokio::net::lookup_host((host, port)).await?.collect()) },
                )
            });
            let answer = ready!(Pin::new(question).poll(context));
            *slot = None;
            Poll::Ready(answer.unwrap_or_else(|error| Err(io::Error::other(error))))
        })
        .await
    }
}
