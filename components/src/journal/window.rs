//! How far a durable consumer is: a cursor, and what is done with above it.

use crate::pubsub::IN_FLIGHT_MAX;

/// Which records of one consumer are done with.
///
/// Everything up to the cursor is; above it, the positions acknowledged ahead of an older record
/// that is still open. Those and the open ones together never exceed [`IN_FLIGHT_MAX`], so an
/// acknowledgement always finds room.
#[derive(Debug, Clone)]
pub(super) struct Window {
    cursor: u64,
    /// Ascending, all above the cursor. Made when the first comes out of order: most consumers
    /// acknowledge in order, and it is 2 KB.
    done: Option<Box<heapless::Vec<u64, IN_FLIGHT_MAX>>>,
}

impl Window {
    /// As it was stored. What does not fit or is out of order is taken as not done: it is yielded
    /// again.
    pub(super) fn new(cursor: u64, acknowledged: &[u64]) -> Self {
        let mut window = Self { cursor, done: None };
        for position in acknowledged {
            if window.done().last().unwrap_or(&cursor) < position {
                // Refused when it is full.
                let _ = window.done.get_or_insert_default().push(*position);
            }
        }
        window
    }

    pub(super) fn cursor(&self) -> u64 {
        self.cursor
    }

    /// Positions above the cursor that are done with.
    pub(super) fn done(&self) -> &[u64] {
        self.done.as_deref().map_or(&[], |done| done.as_slice())
    }

    /// Whether the record at `position` need not be yielded.
    pub(super) fn is_done(&self, position: u64) -> bool {
        position <= self.cursor || self.done().binary_search(&position).is_ok()
    }

    /// Whether one more record may be open beside `open` others.
    pub(super) fn has_room(&self, open: usize) -> bool {
        open + self.done().len() < IN_FLIGHT_MAX
    }

    /// The record at `position` is done with, and nothing up to `through` is open.
    pub(super) fn finish(&mut self, position: u64, through: u64) {
        if position > through.max(self.cursor)
            && let Err(at) = self.done().binary_search(&position)
        {
            let inserted = self.done.get_or_insert_default().insert(at, position);
            debug_assert!(inserted.is_ok(), "more was open than the window has room for");
        }
        self.advance(through);
    }

    /// Nothing up to `through` is open. The cursor never moves back.
    pub(super) fn advance(&mut self, through: u64) {
        if through <= self.cursor {
            return;
        }
        self.cursor = through;
        let passed = self.done().partition_point(|position| *position <= through);
        if passed > 0
            && let Some(done) = &mut self.done
        {
            done.rotate_left(passed);
            done.truncate(done.len() - passed);
        }
    }
}

#[cfg(test)]
#[allow(clippy::print_stdout, reason = "a failing test shows its seed")]
mod tests {
    use super::*;
    use crate::env;
    use std::collections::BTreeSet;

    /// Yields and acknowledges in random order and compares with a plain set of what is done.
    #[test]
    fn the_cursor_is_the_contiguous_prefix() {
        let mut seed = env::random_u64();
        println!("seed {seed}");
        let mut pick = move |below: usize| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
            (seed >> 33) as usize % below
        };
        let mut window = Window::new(0, &[]);
        let (mut open, mut done) = (BTreeSet::new(), BTreeSet::new());
        let mut head = 0_u64;
        for _ in 0..3_000 {
            if pick(2) == 0 && window.has_room(open.len()) {
                head += 1 + pick(3) as u64;
                open.insert(head);
            } else if !open.is_empty() {
                let position = *open.iter().nth(pick(open.len())).unwrap();
                open.remove(&position);
                done.insert(position);
                let through = open.first().map_or(head, |first| first - 1);
                window.finish(position, through);
            }
            assert!(open.iter().all(|position| !window.is_done(*position)));
            assert!(done.iter().all(|position| window.is_done(*position)));
            assert!(open.len() + window.done().len() <= IN_FLIGHT_MAX);
            let again = Window::new(window.cursor(), window.done());
            assert_eq!((again.cursor(), again.done()), (window.cursor(), window.done()));
        }
    }

    #[test]
    fn what_was_stored_out_of_order_is_yielded_again() {
        let window = Window::new(10, &[3, 12, 11, 15]);
        assert_eq!(window.done(), [12, 15]);
    }
}
