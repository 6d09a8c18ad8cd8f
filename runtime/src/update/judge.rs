//! Whether a release on trial works: events and times in, a verdict out. No clock, process or
//! socket inside.

use std::time::Duration;

/// Longest time between two signs of life once it is ready; in a short probation three quarters of
/// that, so that being ready is never enough.
const SILENCE_MAX: Duration = Duration::from_secs(20);

/// What is asked of a release.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Time from its start until it is ready.
    pub(super) ready: Duration,
    /// Time for which it must then be alive.
    pub(super) probation: Duration,
}

impl Limits {
    /// Time within which it must give a sign of life, again and again.
    pub(super) fn silence(&self) -> Duration {
        (self.probation / 4 * 3).min(SILENCE_MAX)
    }
}

/// What happened. Times count from the start.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Seen {
    /// It said that it is ready.
    Ready,
    /// It said anything else.
    Alive,
    /// Somebody wants it to stop.
    AskedToStop,
    /// It has ended, in this way.
    Ended(String),
}

/// What follows.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Verdict {
    /// It works.
    Confirm,
    /// It does not, and why.
    Fail(String),
    /// It stopped as it was asked to. `counts`: this start was a failed one nevertheless, because
    /// it was not ready: else a service manager that loses patience would try it for ever.
    Stopped { counts: bool },
    /// It has ended after it was confirmed.
    Left,
}

/// One start of a release on trial.
#[derive(Debug)]
pub(super) struct Judge {
    limits: Limits,
    ready_at: Option<Duration>,
    heard_at: Duration,
    stopping: bool,
    confirmed: bool,
}

impl Judge {
    pub(super) fn new(limits: Limits) -> Self {
        let heard_at = Duration::ZERO;
        Self { limits, ready_at: None, heard_at, stopping: false, confirmed: false }
    }

    /// Takes an event in.
    pub(super) fn see(&mut self, now: Duration, seen: &Seen) -> Option<Verdict> {
        match seen {
            Seen::Ready | Seen::Alive => {
                self.heard_at = now;
                if *seen == Seen::Ready {
                    self.ready_at = self.ready_at.or(Some(now));
                }
                None
            }
            Seen::AskedToStop => {
                self.stopping = true;
                None
            }
            Seen::Ended(_) if self.confirmed => Some(Verdict::Left),
            Seen::Ended(_) if self.stopping => {
                Some(Verdict::Stopped { counts: self.ready_at.is_none() })
            }
            Seen::Ended(how) => {
                let when = if self.ready_at.is_some() { "ready" } else { "not ready yet" };
                let now_ms = now.as_millis();
                Some(Verdict::Fail(format!("it ended by itself ({how}) after {now_ms} ms, {when}")))
            }
        }
    }

    /// Looks at the clock.
    pub(super) fn look(&mut self, now: Duration) -> Option<Verdict> {
        if self.stopping || self.confirmed {
            return None;
        }
        let Limits { ready, probation } = self.limits;
        let Some(ready_at) = self.ready_at else {
            return (now >= ready)
                .then(|| Verdict::Fail(format!("it was not ready within {ready:?}")));
        };
        let silence = self.limits.silence();
        if now.saturating_sub(self.heard_at) >= silence {
            return Some(Verdict::Fail(format!("it gave no sign of life for {silence:?}")));
        }
        (now >= ready_at + probation).then_some(Verdict::Confirm)
    }

    /// Its confirmation is on the medium: it is no longer judged.
    pub(super) fn confirmed(&mut self) {
        self.confirmed = true;
    }

    /// When to look at the clock next; never if nothing depends on it.
    pub(super) fn next_look(&self) -> Option<Duration> {
        if self.stopping || self.confirmed {
            return None;
        }
        Some(match self.ready_at {
            None => self.limits.ready,
            Some(at) => (at + self.limits.probation).min(self.heard_at + self.limits.silence()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits =
        Limits { ready: Duration::from_secs(60), probation: Duration::from_secs(60) };

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn ended() -> Seen {
        Seen::Ended("exit status: 0".into())
    }

    fn reason(verdict: Option<Verdict>) -> String {
        match verdict {
            Some(Verdict::Fail(reason)) => reason,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn one_that_lives_through_its_probation_is_confirmed() {
        let mut judge = Judge::new(LIMITS);
        assert_eq!(judge.next_look(), Some(at(60)));
        assert_eq!(judge.see(at(59), &Seen::Ready), None);
        for second in (60..119).step_by(19) {
            assert_eq!(judge.look(at(second)), None, "{second}");
            assert_eq!(judge.see(at(second), &Seen::Alive), None);
        }
        assert_eq!(judge.next_look(), Some(at(119)));
        // Ready once is ready: the probation does not begin anew.
        assert_eq!(judge.see(at(118), &Seen::Ready), None);
        assert_eq!(judge.look(at(118)), None);
        assert_eq!(judge.look(at(119)), Some(Verdict::Confirm));
        // Until that is on the medium it is said again.
        assert_eq!(judge.look(at(119)), Some(Verdict::Confirm));
        judge.confirmed();
        assert_eq!((judge.look(at(500)), judge.next_look()), (None, None));
        assert_eq!(judge.see(at(501), &ended()), Some(Verdict::Left));
    }

    #[test]
    fn one_that_does_not_work_fails_with_a_reason() {
        let mut slow = Judge::new(LIMITS);
        assert_eq!(slow.see(at(1), &Seen::Alive), None);
        assert_eq!(slow.look(at(59)), None);
        assert!(reason(slow.look(at(60))).contains("not ready within 60s"));

        let mut early = Judge::new(LIMITS);
        assert!(
            reason(early.see(at(3), &ended()))
                .contains("(exit status: 0) after 3000 ms, not ready yet")
        );

        let mut late = Judge::new(LIMITS);
        late.see(at(1), &Seen::Ready);
        assert!(reason(late.see(at(60), &ended())).contains("60000 ms, ready"));

        let mut silent = Judge::new(LIMITS);
        silent.see(at(1), &Seen::Ready);
        silent.see(at(5), &Seen::Alive);
        assert_eq!(silent.next_look(), Some(at(25)));
        assert_eq!(silent.look(at(24)), None);
        assert!(reason(silent.look(at(25))).contains("no sign of life for 20s"));
    }

    /// However short the probation is, a word beyond READY is needed.
    #[test]
    fn ready_alone_is_never_enough() {
        for ms in [1, 100, 1000, 20_000, 60_000] {
            let probation = Duration::from_millis(ms);
            let mut judge = Judge::new(Limits { ready: at(60), probation });
            judge.see(at(0), &Seen::Ready);
            assert!(reason(judge.look(probation)).contains("no sign of life"), "{ms}");
        }
    }

    #[test]
    fn a_stop_on_request_is_no_failure_once_it_is_ready() {
        for (ready, counts) in [(true, false), (false, true)] {
            let mut judge = Judge::new(LIMITS);
            if ready {
                judge.see(at(1), &Seen::Ready);
            }
            judge.see(at(2), &Seen::AskedToStop);
            assert_eq!((judge.look(at(500)), judge.next_look()), (None, None));
            assert_eq!(judge.see(at(501), &ended()), Some(Verdict::Stopped { counts }));
        }
    }
}
