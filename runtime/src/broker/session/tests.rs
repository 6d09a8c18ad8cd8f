//! Rules of the session that the simulation does not meet: each test feeds packets and reads what
//! the session wants done.

use super::*;
use crate::broker::OUTBOX_BYTES_MAX;
use crate::broker::packet::{
    Ack, Properties, Publish, Qos, Reasons, RetainHandling, Subscribe, Unsubscribe, Will,
};
use crate::resources::MqttUserPlan;
use bytes::Bytes;
use pillion_components::{Error, Kind};

fn session_of(version: Version, rights: Rights) -> Session {
    let accepted = Accepted {
        version,
        client_id: "c".into(),
        is_assigned: false,
        clean_start: true,
        expiry_s: 0,
        expiry_is_ours: false,
        keep_alive_s: 10,
        keep_alive_is_ours: false,
        will: None::<Will>,
        will_delay_s: 0,
        receive_maximum: 10,
        packet_bytes_max: None,
    };
    let limits = MqttLimits { inflight_max: 2, subscriptions_max: 2, ..MqttLimits::default() };
    Session::new(&accepted, rights, &limits, Subscriptions::default(), Parked::default(), 0)
}

fn session(version: Version) -> Session {
    session_of(version, Rights::everything())
}

fn publish(topic: &str, qos: Qos, packet_id: u16) -> Packet {
    publish_with(topic, qos, packet_id, Properties::default())
}

fn publish_with(topic: &str, qos: Qos, packet_id: u16, properties: Properties) -> Packet {
    Packet::Publish(Publish {
        dup: false,
        qos,
        retain: false,
        topic: topic.into(),
        packet_id,
        payload: Bytes::from_static(b"x"),
        properties: Some(Box::new(properties)),
    })
}

fn subscribe(session: &mut Session, filter: &str, qos: Qos) -> Vec<Reason> {
    let wish = Wish {
        filter: filter.into(),
        qos,
        no_local: false,
        retain_as_published: false,
        retain_handling: RetainHandling::Always,
    };
    let packet = Subscribe { packet_id: 1, wishes: vec![wish], properties: None };
    session.receive(Packet::Subscribe(packet), 0);
    match session.next_action() {
        Some(Action::Send(Packet::SubAck(Reasons { reasons, .. }))) => reasons,
        Some(Action::Subscribed { answer, .. }) => match *answer {
            Packet::SubAck(Reasons { reasons, .. }) => reasons,
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

fn delivery(token: u64, topic: &str) -> Delivery {
    let message = Message { topic: topic.into(), ..Message::default() };
    let message = Arc::new(message);
    Delivery { token, id: token.to_string().into(), published_ms: 0, again: false, message }
}

fn actions(session: &mut Session) -> Vec<Action> {
    std::iter::from_fn(|| session.next_action()).collect()
}

fn closed_because(session: &mut Session) -> Option<Reason> {
    actions(session).into_iter().find_map(|action| match action {
        Action::Close(close) => close.reason,
        _ => None,
    })
}

#[test]
fn aliases_stand_for_topics_and_are_bounded() {
    let mut session = session(Version::V5);
    let alias = |alias| Properties { topic_alias: Some(alias), ..Properties::default() };
    session.receive(publish_with("a/b", Qos::AtMostOnce, 0, alias(3)), 0);
    session.receive(publish_with("", Qos::AtMostOnce, 0, alias(3)), 0);
    let topics: Vec<_> = actions(&mut session)
        .into_iter()
        .map(|action| match action {
            Action::Publish(_, message) => message.topic,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(topics, ["a/b".into(), "a/b".into()] as [Arc<str>; 2]);
    session.receive(publish_with("", Qos::AtMostOnce, 0, alias(4)), 0);
    assert_eq!(closed_because(&mut session), Some(Reason::ALIAS_INVALID));
}

#[test]
fn a_client_is_held_to_its_receive_maximum() {
    let mut session = session(Version::V5);
    for id in 1..=3 {
        session.receive(publish("a", Qos::AtLeastOnce, id), 0);
    }
    assert_eq!(closed_because(&mut session), Some(Reason::RECEIVE_MAXIMUM));
    assert!(!session.can_receive());
}

#[test]
fn a_publish_without_the_right_is_answered_and_dropped() {
    let plan = MqttUserPlan {
        name: "anonymous".into(),
        password_hash: None,
        publish: vec!["mine/%c".into()],
        subscribe: vec!["mine/#".into()],
    };
    let users = super::super::access::Users::new(vec![plan], true);
    let claim = super::super::access::Claim { certificate_name: None, user_name: None };
    for version in [Version::V4, Version::V5] {
        let super::super::access::Verdict::Known(rights) = users.judge(&claim, "c") else {
            panic!("known")
        };
        let mut session = session_of(version, rights);
        session.receive(publish("other", Qos::AtLeastOnce, 7), 0);
        let expected =
            if version == Version::V4 { Reason::SUCCESS } else { Reason::NOT_AUTHORIZED };
        match &actions(&mut session)[..] {
            [Action::Dropped(_), Action::Send(Packet::PubAck(ack))] => {
                assert_eq!(*ack, Ack::new(7, expected));
            }
            other => panic!("{other:?}"),
        }
        session.receive(publish("mine/c", Qos::AtMostOnce, 0), 0);
        assert!(matches!(session.next_action(), Some(Action::Publish(..))));
        assert_eq!(subscribe(&mut session, "other", Qos::AtMostOnce), [Reason::NOT_AUTHORIZED]);
    }
}

#[test]
fn a_failed_publish_is_never_acknowledged() {
    for (version, qos) in [
        (Version::V4, Qos::AtLeastOnce),
        (Version::V5, Qos::AtLeastOnce),
        (Version::V5, Qos::ExactlyOnce),
    ] {
        let mut session = session(version);
        session.receive(publish("a", qos, 5), 0);
        let Some(Action::Publish(ticket, _)) = session.next_action() else { panic!("publish") };
        session.published(ticket, Err(Error::new(Kind::Full, "full")));
        match (version, session.next_action()) {
            (Version::V4, Some(Action::Close(close))) => assert!(close.with_will),
            (Version::V5, Some(Action::Send(Packet::PubAck(ack) | Packet::PubRec(ack)))) => {
                assert_eq!(ack.reason, Reason::QUOTA_EXCEEDED);
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn subscriptions_are_judged_one_by_one() {
    let mut session = session(Version::V5);
    assert_eq!(subscribe(&mut session, "a/#b", Qos::AtMostOnce), [Reason::FILTER_INVALID]);
    assert_eq!(
        subscribe(&mut session, "$share/g/a", Qos::AtMostOnce),
        [Reason::SHARED_UNSUPPORTED]
    );
    assert_eq!(subscribe(&mut session, "$pillion/#", Qos::AtMostOnce), [Reason::NOT_AUTHORIZED]);
    assert_eq!(subscribe(&mut session, "a", Qos::AtLeastOnce), [Reason(1)]);
    assert_eq!(subscribe(&mut session, "b", Qos::ExactlyOnce), [Reason(2)]);
    assert_eq!(subscribe(&mut session, "c", Qos::AtMostOnce), [Reason::QUOTA_EXCEEDED]);
    assert_eq!(subscribe(&mut session, "a", Qos::AtMostOnce), [Reason(0)]);
    let filters = vec!["a".into(), "x".into()];
    let packet = Unsubscribe { packet_id: 9, filters, properties: None };
    session.receive(Packet::Unsubscribe(packet), 0);
    match session.next_action() {
        Some(Action::Subscribed { answer, .. }) => assert_eq!(
            *answer,
            Packet::UnsubAck(Reasons {
                packet_id: 9,
                reasons: vec![Reason::SUCCESS, Reason::NO_SUBSCRIPTION],
                properties: None
            })
        ),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_slow_reader_loses_qos_0_and_nothing_else() {
    let mut session = session(Version::V4);
    subscribe(&mut session, "zero", Qos::AtMostOnce);
    subscribe(&mut session, "one", Qos::AtLeastOnce);
    session.deliver(delivery(1, "zero"), OUTBOX_BYTES_MAX);
    session.deliver(delivery(2, "one"), OUTBOX_BYTES_MAX);
    match &actions(&mut session)[..] {
        [
            Action::Dropped("slow-reader"),
            Action::Ack(1),
            Action::Send(Packet::Publish(publish)),
        ] => {
            assert_eq!(publish.qos, Qos::AtLeastOnce);
        }
        other => panic!("{other:?}"),
    }
    session.deliver(delivery(3, "one"), 0);
    assert!(!session.can_deliver(0), "the window is full");
    session.receive(Packet::PubAck(Ack::new(1, Reason::SUCCESS)), 0);
    assert!(session.can_deliver(0));
    assert!(actions(&mut session).iter().any(|action| matches!(action, Action::Ack(2))));
}

#[test]
fn what_is_no_longer_wanted_is_acknowledged_and_not_sent() {
    let mut session = session(Version::V5);
    session.deliver(delivery(1, "a"), 0);
    assert!(matches!(actions(&mut session)[..], [Action::Ack(1)]));
}

#[test]
fn retained_messages_wait_for_the_window() {
    let mut session = session(Version::V4);
    subscribe(&mut session, "r/#", Qos::AtLeastOnce);
    let retained = (1..=5).map(|n| delivery(n, "r/x")).collect();
    session.subscribed(Packet::PingResp, retained);
    assert_eq!(actions(&mut session).len(), 3, "the answer and a window of two");
    assert!(!session.can_deliver(0), "live messages come after them");
    for id in 1..=5 {
        session.receive(Packet::PubAck(Ack::new(id, Reason::SUCCESS)), 0);
    }
    let sent = actions(&mut session);
    assert_eq!(sent.len(), 3);
    for action in &sent {
        assert!(matches!(action, Action::Send(Packet::Publish(p)) if p.retain), "{action:?}");
    }
    assert!(session.can_deliver(0));
}

#[test]
fn silence_ends_the_connection_after_one_and_a_half_keep_alives() {
    let mut session = session(Version::V5);
    session.receive(Packet::PingReq, 1_000);
    session.tick(15_999);
    assert_eq!(closed_because(&mut session), None);
    session.tick(16_000);
    assert_eq!(closed_because(&mut session), Some(Reason::KEEP_ALIVE_TIMEOUT));
}

#[test]
fn a_goodbye_keeps_the_will_back_unless_it_says_otherwise() {
    for (reason, expected) in [(Reason::SUCCESS, false), (Reason::WITH_WILL, true)] {
        let mut session = session(Version::V5);
        session.receive(Packet::Disconnect(Notice { reason, properties: None }), 0);
        match session.next_action() {
            Some(Action::Close(close)) => assert_eq!(close.with_will, expected),
            other => panic!("{other:?}"),
        }
    }
    let mut session = session(Version::V5);
    let properties = Properties { session_expiry_s: Some(5), ..Properties::default() };
    let notice = Notice { reason: Reason::SUCCESS, properties: Some(Box::new(properties)) };
    session.receive(Packet::Disconnect(notice), 0);
    assert_eq!(closed_because(&mut session), Some(Reason::PROTOCOL_ERROR));
}

#[test]
fn a_message_sent_before_goes_out_again_under_its_packet_id() {
    let accepted = Accepted {
        version: Version::V5,
        client_id: "c".into(),
        is_assigned: false,
        clean_start: false,
        expiry_s: 100,
        expiry_is_ours: false,
        keep_alive_s: 0,
        keep_alive_is_ours: false,
        will: None,
        will_delay_s: 0,
        receive_maximum: 10,
        packet_bytes_max: None,
    };
    let limits = MqttLimits::default();
    let open = |subscriptions, parked| {
        Session::new(&accepted, Rights::everything(), &limits, subscriptions, parked, 0)
    };
    let mut first = open(Subscriptions::default(), Parked::default());
    subscribe(&mut first, "a", Qos::AtLeastOnce);
    for token in 1..=3 {
        first.deliver(delivery(token, "a"), 0);
    }
    first.receive(Packet::PubAck(Ack::new(1, Reason::SUCCESS)), 0);
    let (subscriptions, parked) = first.park();
    let mut second = open(subscriptions, parked);
    // Not the ids 2 and 3, which are taken.
    for (token, expected) in [(9, (1, false)), (2, (2, true)), (3, (3, true))] {
        second.deliver(delivery(token, "a"), 0);
        match second.next_action() {
            Some(Action::Send(Packet::Publish(p))) => assert_eq!((p.packet_id, p.dup), expected),
            other => panic!("{other:?}"),
        }
    }
}
