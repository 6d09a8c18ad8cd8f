//! The acknowledgements that the broker waits for on this connection.
//!
//! They leave in the order in which messages came, as the standard asks, except for those that
//! were handed back or that nobody has taken yet: they must not hold up the others.

use rumqttc::{AsyncClient, ManualAck};
use std::collections::{BTreeMap, VecDeque};

/// See the head of this file. Messages are named by the order of their arrival.
#[derive(Default)]
pub(super) struct Acks {
    owed: BTreeMap<u64, Owed>,
    order: VecDeque<u64>,
}

struct Owed {
    ack: ManualAck,
    /// Subscriptions that have not acknowledged yet.
    holders: usize,
    /// Does not hold up those behind it.
    aside: bool,
}

/// Where acknowledgements go. One that does not leave is owed no more: without a connection the
/// broker sends the message again.
type Client<'a> = Option<&'a AsyncClient>;

impl Acks {
    /// A message came that so many subscriptions hold.
    pub(super) fn owe(
        &mut self,
        token: u64,
        ack: ManualAck,
        holders: usize,
        aside: bool,
        client: Client<'_>,
    ) {
        if aside && holders == 0 {
            return send(ack, client);
        }
        self.owed.insert(token, Owed { ack, holders, aside });
        if !aside {
            self.order.push_back(token);
            self.send_due(client);
        }
    }

    /// One of the holders of a message is done with it.
    pub(super) fn release(&mut self, token: u64, client: Client<'_>) {
        let Some(owed) = self.owed.get_mut(&token) else { return };
        owed.holders = owed.holders.saturating_sub(1);
        if !owed.aside {
            self.send_due(client);
        } else if owed.holders == 0
            && let Some(owed) = self.owed.remove(&token)
        {
            send(owed.ack, client);
        }
    }

    /// These may take long: those behind them need not wait.
    pub(super) fn set_aside(&mut self, tokens: impl Iterator<Item = u64>, client: Client<'_>) {
        for token in tokens {
            if let Some(owed) = self.owed.get_mut(&token) {
                owed.aside = true;
            }
        }
        self.send_due(client);
    }

    /// The connection is gone, and with it what was owed.
    pub(super) fn clear(&mut self) {
        self.owed.clear();
        self.order.clear();
    }

    fn send_due(&mut self, client: Client<'_>) {
        while let Some(token) = self.order.front() {
            match self.owed.get(token) {
                Some(owed) if !owed.aside && owed.holders > 0 => return,
                Some(owed) if !owed.aside => {
                    send(owed.ack.clone(), client);
                    self.owed.remove(token);
                }
                _ => {}
            }
            self.order.pop_front();
        }
    }
}

fn send(ack: ManualAck, client: Client<'_>) {
    if let Some(client) = client {
        let _ = client.try_manual_ack(ack);
    }
}
