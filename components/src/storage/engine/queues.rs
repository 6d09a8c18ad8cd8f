//! The ends of queues.

use super::{Below, Engine};
use crate::error::Result;
use crate::storage::batch::Committed;
use crate::storage::format::Logged;
use crate::storage::log::Class;

impl Engine {
    /// Drops what is beyond the ends of queues: counted, and said once per episode.
    pub(super) fn end_queues(&mut self, stream: u32, now_ms: u64, log: &mut Vec<u8>) -> Result<()> {
        let to_log = self.below.is_some();
        let state = self.stream_mut(stream)?;
        let mut over = Vec::new();
        for (name, follower) in &mut state.followers.by_name {
            let limits = &follower.consumer.limits;
            match follower.backlog.overflow(now_ms, limits) {
                Some(dropped) => over.push((name.clone(), dropped)),
                None => {
                    follower.dropping &= follower.backlog.bytes() > limits.backlog_bytes_max / 2
                }
            }
        }
        for (name, dropped) in over {
            if to_log {
                let (cursor, records) = (dropped.cursor, dropped.records);
                Logged::DropOldest { stream, name: &name, cursor, records }.encode(log);
            }
            if let Some((before, after)) = state.followers.drop_oldest(&name, dropped) {
                state.free(before, after);
            }
            if let Some(follower) = state.followers.by_name.get_mut(&name)
                && !std::mem::replace(&mut follower.dropping, true)
            {
                let stream = &*state.name;
                let messages = dropped.records;
                tracing::warn!(
                    stream,
                    consumer = name,
                    messages,
                    "queue at its end: oldest dropped"
                );
            }
        }
        Ok(())
    }

    /// Drops what waits too long. Called from time to time.
    pub(in crate::storage) fn end_old(&mut self) -> Result<()> {
        let now_ms = self.clock.now_ms();
        for stream in 0..self.streams.len() as u32 {
            let mut log = Vec::new();
            self.end_queues(stream, now_ms, &mut log)?;
            if let (Some(Below { log: writer, .. }), false) = (self.below.clone(), log.is_empty()) {
                let mut queue = writer.queue();
                let start = queue.bytes.len();
                queue.bytes.extend_from_slice(&log);
                let committed = Committed::default();
                self.enqueue(
                    &mut queue,
                    start,
                    Class::Moves,
                    false,
                    Vec::new(),
                    Vec::new(),
                    committed,
                );
                writer.leave(queue);
            }
        }
        Ok(())
    }
}
