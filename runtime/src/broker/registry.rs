//! Every session of the door: connected ones, and those whose client is away.
//!
//! A client id has one seat. Who wants a seat that is taken asks the holder to leave (take-over)
//! and waits until it has. `H` is how a holder is asked; the rules need not know.

use super::record::NEVER_S;
use super::session::Parked;
use pillion_components::pubsub::Message;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// A session whose client is away.
#[derive(Debug, Default)]
pub(crate) struct Away {
    /// What it had not completed.
    pub(crate) parked: Parked,
    /// When it ends; `None` is never.
    pub(crate) expires_ms: Option<u64>,
    /// A will that is published at this time unless the client comes back.
    pub(crate) will: Option<(u64, Message)>,
}

impl Away {
    fn deadline_ms(&self) -> Option<u64> {
        let will_ms = self.will.as_ref().map(|(at_ms, _)| *at_ms);
        will_ms.into_iter().chain(self.expires_ms).min()
    }
}

#[derive(Debug)]
enum Seat<H> {
    Taken { holder: H, is_persistent: bool },
    Away(Box<Away>),
}

/// The answer to a client that wants its seat.
#[derive(Debug)]
pub(crate) enum Claim<H> {
    /// It has it now. What is known of its session, if it has one.
    Granted(Option<Box<Away>>),
    /// Somebody sits there.
    Taken(H),
    /// No more persistent sessions.
    Full,
}

/// Something whose time has come.
#[derive(Debug)]
pub(crate) enum Due {
    /// Publish this will.
    Will(Message),
    /// Forget the session of this client. The seat is taken until it is released.
    Expired(Arc<str>),
}

/// The seats.
#[derive(Debug)]
pub(crate) struct Registry<H> {
    seats: HashMap<Arc<str>, Seat<H>>,
    deadlines: BTreeSet<(u64, Arc<str>)>,
    persistent: usize,
    persistent_max: usize,
}

impl<H: Clone> Registry<H> {
    /// No session yet, and never more than `persistent_max` persistent ones.
    pub(crate) fn new(persistent_max: usize) -> Self {
        Self { seats: HashMap::new(), deadlines: BTreeSet::new(), persistent: 0, persistent_max }
    }

    /// Asks for the seat of this client.
    pub(crate) fn claim(&mut self, client: &Arc<str>, holder: H, is_persistent: bool) -> Claim<H> {
        match self.seats.get(client) {
            Some(Seat::Taken { holder, .. }) => return Claim::Taken(holder.clone()),
            None if is_persistent && self.persistent >= self.persistent_max => return Claim::Full,
            _ => {}
        }
        let away = self.remove(client);
        self.insert(client.clone(), Seat::Taken { holder, is_persistent });
        Claim::Granted(away)
    }

    /// The holder leaves; `away` is what stays of a persistent session.
    pub(crate) fn release(&mut self, client: &Arc<str>, away: Option<Away>) {
        self.remove(client);
        if let Some(away) = away {
            self.insert(client.clone(), Seat::Away(Box::new(away)));
        }
    }

    /// Adds a session found on disk.
    pub(crate) fn restore(&mut self, client: Arc<str>, away: Away) {
        if !self.seats.contains_key(&client) {
            self.insert(client, Seat::Away(Box::new(away)));
        }
    }

    fn insert(&mut self, client: Arc<str>, seat: Seat<H>) {
        let is_persistent = match &seat {
            Seat::Taken { is_persistent, .. } => *is_persistent,
            Seat::Away(away) => {
                self.deadlines.extend(away.deadline_ms().map(|at_ms| (at_ms, client.clone())));
                true
            }
        };
        self.persistent += usize::from(is_persistent);
        self.seats.insert(client, seat);
    }

    fn remove(&mut self, client: &Arc<str>) -> Option<Box<Away>> {
        match self.seats.remove(client)? {
            Seat::Taken { is_persistent, .. } => {
                self.persistent -= usize::from(is_persistent);
                None
            }
            Seat::Away(away) => {
                self.persistent -= 1;
                if let Some(at_ms) = away.deadline_ms() {
                    self.deadlines.remove(&(at_ms, client.clone()));
                }
                Some(away)
            }
        }
    }

    /// The next thing whose time has come. The seat of an expired session goes to `holder`.
    pub(crate) fn due(&mut self, now_ms: u64, holder: impl FnOnce() -> H) -> Option<Due> {
        let (at_ms, client) = self.deadlines.first()?;
        if *at_ms > now_ms {
            return None;
        }
        let client = client.clone();
        let mut away = self.remove(&client)?;
        if let Some((_, message)) = away.will.take_if(|(at_ms, _)| *at_ms <= now_ms) {
            self.insert(client, Seat::Away(away));
            return Some(Due::Will(message));
        }
        let taken = Seat::Taken { holder: holder(), is_persistent: true };
        self.insert(client.clone(), taken);
        Some(Due::Expired(client))
    }

    /// When the next thing is due.
    pub(crate) fn next_deadline_ms(&self) -> Option<u64> {
        self.deadlines.first().map(|(at_ms, _)| *at_ms)
    }

    /// Persistent sessions, connected or not.
    pub(crate) const fn persistent(&self) -> usize {
        self.persistent
    }
}

/// When a session ends whose client left at `since_ms`. `forget_after_ms` is the longest that any
/// session is kept.
pub(crate) fn expires_ms(
    since_ms: u64,
    expiry_s: u32,
    forget_after_ms: Option<u64>,
) -> Option<u64> {
    let own_ms = (expiry_s != NEVER_S).then(|| u64::from(expiry_s) * 1000);
    let kept_ms = own_ms.into_iter().chain(forget_after_ms).min()?;
    Some(since_ms.saturating_add(kept_ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(name: &str) -> Arc<str> {
        name.into()
    }

    fn away(expires_ms: Option<u64>, will_ms: Option<u64>) -> Away {
        let will = will_ms.map(|at_ms| (at_ms, Message::default()));
        Away { expires_ms, will, ..Away::default() }
    }

    #[test]
    fn a_client_id_has_one_seat() {
        let mut registry = Registry::new(10);
        let c = client("c");
        assert!(matches!(registry.claim(&c, 1, true), Claim::Granted(None)));
        assert!(matches!(registry.claim(&c, 2, true), Claim::Taken(1)));
        registry.release(&c, Some(away(None, None)));
        assert!(matches!(registry.claim(&c, 2, false), Claim::Granted(Some(_))));
        assert_eq!(registry.persistent(), 0);
        registry.release(&c, None);
        assert!(matches!(registry.claim(&c, 3, false), Claim::Granted(None)));
    }

    #[test]
    fn persistent_sessions_are_bounded() {
        let mut registry = Registry::new(1);
        assert!(matches!(registry.claim(&client("a"), 1, true), Claim::Granted(_)));
        assert!(matches!(registry.claim(&client("b"), 2, true), Claim::Full));
        assert!(matches!(registry.claim(&client("b"), 2, false), Claim::Granted(_)));
    }

    #[test]
    fn wills_come_before_the_end_and_not_if_the_client_is_back() {
        let mut registry = Registry::new(10);
        for name in ["a", "b"] {
            registry.claim(&client(name), 0, true);
            registry.release(&client(name), Some(away(Some(20), Some(10))));
        }
        assert!(registry.due(9, || 9).is_none());
        assert_eq!(registry.next_deadline_ms(), Some(10));
        registry.claim(&client("b"), 1, true);
        assert!(matches!(registry.due(10, || 9), Some(Due::Will(_))));
        assert!(registry.due(19, || 9).is_none());
        match registry.due(20, || 9) {
            Some(Due::Expired(name)) => assert_eq!(&*name, "a"),
            other => panic!("{other:?}"),
        }
        // The seat is held while the session is being forgotten.
        assert!(matches!(registry.claim(&client("a"), 1, true), Claim::Taken(9)));
        registry.release(&client("a"), None);
        assert_eq!(registry.next_deadline_ms(), None);
        assert_eq!(registry.persistent(), 1);
    }

    #[test]
    fn the_shorter_of_expiry_and_forgetting_counts() {
        assert_eq!(expires_ms(5, 1, Some(10_000)), Some(1_005));
        assert_eq!(expires_ms(5, 100, Some(10_000)), Some(10_005));
        assert_eq!(expires_ms(5, NEVER_S, Some(10_000)), Some(10_005));
        assert_eq!(expires_ms(5, NEVER_S, None), None);
    }
}
