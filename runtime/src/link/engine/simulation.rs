//! The engine in a simulated world of cuts, refusals and restarts, and small tests of its rules.
//!
//! The world holds queues at the source that survive a restart (their last acknowledgements may
//! not), a target that records what reaches it, and a connection between them that can break
//! anywhere. One seed makes one history; `PILLION_SEED` repeats it.

#![allow(clippy::print_stdout, reason = "a seed is shown")]

use super::*;
use std::collections::BTreeMap;

const RUNS: u64 = 2000;
const STEPS: usize = 250;
const TOPICS: [&str; 3] = ["a", "b", "c"];
/// Every so-manieth message is refused by the target for good.
const REFUSED_EVERY: u64 = 41;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).expect("it fits")
    }
}

/// A queue at the source. Messages are numbered over all flows; the number is the token.
#[derive(Default)]
struct Queue {
    messages: Vec<(u64, Arc<str>)>,
    done: BTreeSet<u64>,
    /// Acknowledged, and lost if the process is killed now.
    unsynced: Vec<u64>,
    /// Index of the next one to give.
    given: usize,
}

struct World {
    random: Random,
    engine: Engine,
    rules: Vec<FlowRules>,
    queues: Vec<Queue>,
    published: u64,
    /// Failed and not sent again yet: nothing behind them may be sent.
    failed: BTreeMap<Arc<str>, BTreeSet<u64>>,
    /// Sent, not answered: ticket, number, topic, whether it reached the target.
    wire: VecDeque<(Ticket, u64, Arc<str>, bool)>,
    connected: bool,
    target: BTreeMap<Arc<str>, Vec<u64>>,
    reached: BTreeSet<u64>,
    repeats_allowed: usize,
    /// Single messages may fail while others pass.
    single_failures: bool,
    now_ms: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed | 1);
        let flows = 1 + random.below(3);
        let rule = |n: usize, random: &mut Random| FlowRules {
            priority: u8::try_from(n % 2).expect("small"),
            rate: (random.below(4) == 0).then_some(50),
        };
        let rules: Vec<FlowRules> = (0..flows).map(|n| rule(n, &mut random)).collect();
        Self {
            single_failures: random.below(2) == 0,
            engine: Engine::new(&rules, true, 0, random.next()),
            random,
            queues: rules.iter().map(|_| Queue::default()).collect(),
            rules,
            published: 0,
            failed: BTreeMap::new(),
            wire: VecDeque::new(),
            connected: true,
            target: BTreeMap::new(),
            reached: BTreeSet::new(),
            repeats_allowed: 0,
            now_ms: 0,
        }
    }

    fn step(&mut self) {
        match self.random.below(100) {
            0..25 => self.publish(),
            25..45 => self.feed(),
            45..80 => self.answer(),
            80..90 => self.pass(),
            90..93 => self.sync(),
            93 => self.cut(),
            94 => self.connect(),
            95 => self.kill(),
            96 => self.restart_source(),
            _ => self.now_ms += self.random.next() % 500,
        }
        self.act();
    }

    fn publish(&mut self) {
        // Bursts, so that the window is full at times.
        for _ in 0..1 + self.random.below(2) * self.random.below(12) {
            let index = self.random.below(self.queues.len());
            let topic = TOPICS[self.random.below(TOPICS.len())];
            self.published += 1;
            // A topic belongs to one flow.
            self.queues[index].messages.push((self.published, format!("{index}/{topic}").into()));
        }
    }

    fn feed(&mut self) {
        for (index, queue) in self.queues.iter_mut().enumerate() {
            while self.engine.wants(index) && queue.given < queue.messages.len() {
                let (number, topic) = &queue.messages[queue.given];
                queue.given += 1;
                if !queue.done.contains(number) && !queue.unsynced.contains(number) {
                    let message = Message { topic: topic.clone(), ..Message::default() };
                    self.engine.arrived(index, *number, Arc::new(message), self.now_ms);
                    if self.random.below(4) == 0 {
                        break;
                    }
                }
            }
        }
    }

    fn act(&mut self) {
        let (actions, _) = self.engine.poll(self.now_ms);
        for action in actions {
            match action {
                Action::Send(ticket, message) => {
                    let flow = &self.engine.flows[ticket.flow];
                    let (entry, _) =
                        flow.sent.iter().find(|(e, _)| e.number == ticket.number).unwrap();
                    let number = entry.token;
                    let failed = self.failed.entry(message.topic.clone()).or_default();
                    failed.remove(&number);
                    assert!(
                        failed.first().is_none_or(|first| *first > number),
                        "{number} overtakes"
                    );
                    self.wire.push_back((ticket, number, message.topic.clone(), false));
                    assert!(self.wire.len() <= WINDOW, "more on the wire than the window");
                }
                Action::Done { flow, token, end } => {
                    let queue = &mut self.queues[flow];
                    let reached = self.reached.contains(&token);
                    let refused = token.is_multiple_of(REFUSED_EVERY);
                    assert_eq!(end == End::Refused, refused, "{token}");
                    assert!(reached != refused, "{token} is done with and never arrived");
                    assert!(!queue.done.contains(&token) && !queue.unsynced.contains(&token));
                    queue.unsynced.push(token);
                }
            }
        }
    }

    /// Some of what is on the wire reaches the target, in order.
    fn pass(&mut self) {
        let mut budget = self.random.below(WINDOW);
        for (_, number, topic, reached) in self.wire.iter_mut().filter(|sent| !sent.3) {
            if budget == 0 || !self.connected {
                break;
            }
            budget -= 1;
            *reached = true;
            if !number.is_multiple_of(REFUSED_EVERY) {
                self.target.entry(topic.clone()).or_default().push(*number);
                self.reached.insert(*number);
            }
        }
    }

    fn answer(&mut self) {
        self.pass();
        if self.wire.is_empty() {
            return;
        }
        let in_order = !self.single_failures || self.random.below(4) > 0;
        let index = if in_order { 0 } else { self.random.below(self.wire.len()) };
        let fails = self.single_failures && self.random.below(20) == 0;
        let Some((ticket, number, topic, reached)) = self.wire.get(index).cloned() else { return };
        if !reached && !fails {
            return;
        }
        self.wire.remove(index);
        let result = match (fails, number.is_multiple_of(REFUSED_EVERY)) {
            (true, _) => Err(Kind::Overloaded),
            (false, true) => Err(Kind::TooLarge),
            (false, false) => Ok(()),
        };
        if fails {
            self.failed.entry(topic).or_default().insert(number);
            self.repeats_allowed += WINDOW;
        }
        self.engine.answered(ticket, result, self.now_ms);
    }

    fn sync(&mut self) {
        for queue in &mut self.queues {
            queue.done.extend(queue.unsynced.drain(..));
        }
    }

    /// The connection breaks: a part of the wire has passed, all of it fails.
    fn cut(&mut self) {
        self.pass();
        self.connected = false;
        self.repeats_allowed += WINDOW;
        if self.random.below(2) == 0 {
            self.engine.reachable(false);
        }
        for (ticket, number, topic, _) in std::mem::take(&mut self.wire) {
            self.failed.entry(topic).or_default().insert(number);
            self.engine.answered(ticket, Err(Kind::Unavailable), self.now_ms);
        }
        self.engine.reachable(false);
    }

    fn connect(&mut self) {
        self.connected = true;
        self.engine.reachable(true);
    }

    /// The process is killed: the engine and what is on the wire are gone, and so may be the last
    /// acknowledgements at the source.
    fn kill(&mut self) {
        self.pass();
        self.wire.clear();
        self.failed.clear();
        self.repeats_allowed += WINDOW;
        for queue in &mut self.queues {
            let kept = self.random.below(queue.unsynced.len() + 1);
            self.repeats_allowed += queue.unsynced.len() - kept;
            queue.done.extend(queue.unsynced.drain(..).take(kept));
            queue.given = 0;
        }
        self.engine = Engine::new(&self.rules, self.connected, self.now_ms, self.random.next());
    }

    /// A subscription at the source ends and is opened again.
    fn restart_source(&mut self) {
        let index = self.random.below(self.queues.len());
        self.queues[index].given = 0;
        self.engine.source_restarted(index, self.now_ms);
        self.repeats_allowed += WINDOW;
        let own = format!("{index}/");
        self.failed.retain(|topic, _| !topic.starts_with(&own));
        // Answers to what was sent before come and mean nothing any more; the wire keeps them.
        let late: Vec<Ticket> =
            self.wire.iter().map(|sent| sent.0).filter(|ticket| ticket.flow == index).collect();
        self.pass();
        self.wire.retain(|sent| sent.0.flow != index);
        for ticket in late {
            self.engine.answered(ticket, Ok(()), self.now_ms);
        }
    }

    /// Everything heals; all that was published must arrive.
    fn heal(&mut self) {
        self.single_failures = false;
        self.connect();
        for _ in 0..20_000 {
            self.feed();
            self.act();
            for _ in 0..WINDOW {
                self.answer();
            }
            self.act();
            self.sync();
            self.now_ms += 50;
            if self.queues.iter().all(|q| q.done.len() + q.unsynced.len() == q.messages.len()) {
                return;
            }
        }
        panic!("not everything arrived: {:?}", self.engine);
    }

    fn check(&self, single_failures: bool) {
        let mut arrived = 0;
        for queue in &self.queues {
            let mut by_topic: BTreeMap<&Arc<str>, Vec<u64>> = BTreeMap::new();
            for (number, topic) in &queue.messages {
                if !number.is_multiple_of(REFUSED_EVERY) {
                    by_topic.entry(topic).or_default().push(*number);
                }
            }
            for (topic, expected) in by_topic {
                let seen = &self.target[topic];
                arrived += seen.len() - expected.len();
                // What was published, in order, is what remains when repeats are left out.
                let mut rest = seen.iter();
                for number in &expected {
                    assert!(
                        rest.any(|n| n == number),
                        "{topic}: {number} out of order in {seen:?}"
                    );
                }
                let mut known = BTreeSet::new();
                let first: Vec<_> = seen.iter().filter(|n| known.insert(**n)).collect();
                assert_eq!(first.len(), expected.len(), "{topic}");
                assert!(single_failures || first.is_sorted(), "{topic}: {seen:?}");
            }
        }
        assert!(arrived <= self.repeats_allowed, "{arrived} repeats of {}", self.repeats_allowed);
    }
}

#[test]
fn nothing_is_lost_or_out_of_order_whatever_breaks() {
    let given = std::env::var("PILLION_SEED").ok().and_then(|text| text.parse().ok());
    let first: u64 = given.unwrap_or_else(pillion_components::env::random_u64);
    let runs = if given.is_some() { 1 } else { RUNS };
    for seed in (0..runs).map(|n| first.wrapping_add(n)) {
        let run = std::panic::catch_unwind(|| {
            let mut world = World::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            for _ in 0..STEPS {
                world.step();
            }
            let single_failures = world.single_failures;
            world.heal();
            world.check(single_failures);
        });
        if let Err(panic) = run {
            println!("run it again with PILLION_SEED={seed}");
            std::panic::resume_unwind(panic);
        }
    }
    println!("{runs} runs from PILLION_SEED={first}");
}

fn message(topic: &str) -> Arc<Message> {
    Arc::new(Message { topic: topic.into(), ..Message::default() })
}

fn sent(actions: &[Action]) -> Vec<(Ticket, &str)> {
    let sends = actions.iter().filter_map(|action| match action {
        Action::Send(ticket, message) => Some((*ticket, &*message.topic)),
        Action::Done { .. } => None,
    });
    sends.collect()
}

#[test]
fn the_highest_priority_goes_first_and_equals_take_turns() {
    let rules = [1, 9, 1].map(|priority| FlowRules { priority, rate: None });
    let mut engine = Engine::new(&rules, true, 0, 1);
    for n in 0..2 {
        engine.arrived(0, n, message("low"), 0);
        engine.arrived(1, n, message("high"), 0);
        engine.arrived(2, n, message("also low"), 0);
    }
    let (actions, _) = engine.poll(0);
    let topics: Vec<&str> = sent(&actions).into_iter().map(|(_, topic)| topic).collect();
    assert_eq!(topics, ["high", "high", "also low", "low", "also low", "low"]);
}

#[test]
fn a_rate_is_kept_and_the_time_of_the_next_token_is_told() {
    let mut engine = Engine::new(&[FlowRules { priority: 0, rate: Some(2) }], true, 0, 1);
    for n in 0..5 {
        engine.arrived(0, n, message("t"), 0);
    }
    for (now_ms, count, wake_ms) in [(0, 2, 500), (499, 0, 500), (500, 1, 1000), (1000, 1, 1500)] {
        let (actions, wake) = engine.poll(now_ms);
        assert_eq!((sent(&actions).len(), wake), (count, Some(wake_ms)), "at {now_ms}");
    }
}

#[test]
fn without_the_target_there_is_nothing_to_do_and_no_timer() {
    let mut engine = Engine::new(&[FlowRules { priority: 0, rate: None }], true, 0, 1);
    engine.arrived(0, 1, message("t"), 0);
    let (actions, _) = engine.poll(0);
    let ticket = sent(&actions)[0].0;
    engine.reachable(false);
    engine.answered(ticket, Err(Kind::Unavailable), 10);
    let (actions, wake_ms) = engine.poll(10);
    assert!(actions.is_empty() && wake_ms.is_none() && !engine.wants(0));
    // It is sent again at once when the target is back, not after the wait.
    engine.reachable(true);
    assert_eq!(sent(&engine.poll(11).0).len(), 1);
}

#[test]
fn a_reachable_target_that_refuses_for_now_is_asked_again_after_a_wait() {
    let mut engine = Engine::new(&[FlowRules { priority: 0, rate: None }], true, 0, 1);
    engine.arrived(0, 1, message("t"), 0);
    let mut now_ms = 0;
    for longest_ms in [200, 400, 800] {
        let (actions, _) = engine.poll(now_ms);
        engine.answered(sent(&actions)[0].0, Err(Kind::Full), now_ms);
        let (actions, wake_ms) = engine.poll(now_ms);
        assert!(actions.is_empty());
        let wait_ms = wake_ms.expect("a timer") - now_ms;
        assert!((longest_ms / 2..=longest_ms).contains(&wait_ms), "{wait_ms} of {longest_ms}");
        now_ms += wait_ms;
    }
}

#[test]
fn a_message_whose_time_ran_out_is_not_sent() {
    let mut engine = Engine::new(&[FlowRules { priority: 0, rate: None }], false, 0, 1);
    let short = Message { topic: "t".into(), ttl_ms: Some(100), ..Message::default() };
    engine.arrived(0, 7, Arc::new(short), 0);
    engine.reachable(true);
    let (actions, _) = engine.poll(100);
    assert!(matches!(actions[..], [Action::Done { flow: 0, token: 7, end: End::Expired }]));
}
