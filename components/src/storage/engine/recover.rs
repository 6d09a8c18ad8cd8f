//! The index after a start: what the tree says, then the log on top of it.

use super::{Below, Engine, INLINE_BYTES_MAX, Reserved};
use crate::env::Clock;
use crate::error::Result;
use crate::storage::format::{self, Logged, Meta};
use crate::storage::keys::{Bulk, Keys};
use crate::storage::log::segments::Read;
use crate::storage::stream::{Kept, StreamState};
use bytes::Bytes;

impl Engine {
    /// The index over an open tree, before the log is replayed.
    pub(in crate::storage) fn over(
        clock: Clock,
        quota_bytes: u64,
        below: Below,
        meta: &Meta,
    ) -> Result<Self> {
        let mut engine = Self::memory(clock, quota_bytes);
        let tree = below.tree.clone();
        engine.below = Some(below);
        engine.sequence = meta.sequence;
        engine.live_bytes = meta.live_bytes;
        engine.names(meta);
        for (id, state) in engine.streams.iter_mut().enumerate() {
            state.kept_above = tree.last_record(id as u32)?;
        }
        for (stream, follower) in tree.consumers()? {
            if let Ok(state) = engine.stream_mut(stream) {
                state.followers.by_name.insert(follower.consumer.name.clone(), follower);
            }
        }
        Ok(engine)
    }

    /// Takes over names and reservations.
    fn names(&mut self, meta: &Meta) {
        for name in meta.tables.iter().skip(self.tables.len()) {
            self.tables.push((name.clone(), Keys::default()));
        }
        for (name, _) in meta.streams.iter().skip(self.streams.len()) {
            self.streams.push(StreamState::new(name, Reserved::from(1)));
        }
        self.etags = Reserved::from(meta.etags.max(self.etags.next));
        for (state, (_, next)) in self.streams.iter_mut().zip(&meta.streams) {
            state.positions = Reserved::from((*next).max(state.positions.next));
            state.visible = state.positions.next - 1;
        }
    }

    /// Does a batch again.
    pub(in crate::storage) fn replay(&mut self, read: &Read<'_>, meta: &mut Meta) -> Result<()> {
        self.sequence = self.sequence.max(read.head.sequence);
        meta.clock_ms = meta.clock_ms.max(read.head.clock_ms);
        format::for_each(read.records, |logged, end| self.replay_change(&logged, read, end, meta))
    }

    fn replay_change(
        &mut self,
        logged: &Logged<'_>,
        read: &Read<'_>,
        end: usize,
        meta: &mut Meta,
    ) -> Result<()> {
        match logged {
            Logged::Put { table, key, record } => {
                let (head, value) = format::decode_state(record.0)?;
                meta.etags = meta.etags.max(head.etag + 1);
                self.hlc = self.hlc.max(head.hlc);
                let bulk = if value.len() <= INLINE_BYTES_MAX {
                    Bulk::Inline(Bytes::copy_from_slice(value))
                } else {
                    Bulk::Log(read.place(end, value.len()))
                };
                let stored = format::stored(&head, bulk);
                self.keys(*table)?.apply(Bytes::copy_from_slice(key.0), Some(stored));
            }
            Logged::Delete { table, key } => {
                self.keys(*table)?.apply(Bytes::copy_from_slice(key.0), None);
            }
            Logged::Append { stream, position, record } => {
                let (head, payload) = format::decode_record(record.0)?;
                let bytes = (head.topic.len() + payload.len()) as u64;
                let place = read.place(end, record.0.len());
                let state = self.stream_mut(*stream)?;
                state.followers.count(*position, head.topic, bytes, head.appended_ms);
                state.keep(*position, read.head.sequence, Kept::Log(place));
                state.positions = Reserved::from(state.positions.next.max(position + 1));
                state.visible = state.positions.next - 1;
            }
            logged if meta.learn(logged) => self.names(meta),
            Logged::SetConsumer { stream, .. }
            | Logged::MoveConsumer { stream, .. }
            | Logged::DropOldest { stream, .. }
            | Logged::RemoveConsumer { stream, .. } => {
                let state = self.stream_mut(*stream)?;
                if let Some((before, after)) = state.followers.replay(logged)? {
                    state.free(before, after);
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Ends the replay.
    pub(in crate::storage) fn replayed(&mut self, meta: &Meta) {
        self.names(meta);
    }
}
