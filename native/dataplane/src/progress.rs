//! Whether the user's thread still shows signs of life: shared by a fetcher, the records that its polls return and the
//! heartbeats of its group membership.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

/// When the user's thread last made progress: entered `poll`, waited in it, took a record out of what it returned, or
/// said so.
///
/// Each record taken only moves a counter, since a clock would cost as much as the record. Whoever asks compares the
/// counter with the one at the question before, so that a time of progress is as exact as the questions are frequent:
/// idleness is underestimated by at most the time between two questions, never overestimated.
///
/// All fields are written by any thread, without a lock: a forked child may ask, too.
#[derive(Debug)]
pub struct Progress {
    made: Instant,
    /// Moved by each record that is taken.
    taken: AtomicU64,
    /// `taken` at the last question.
    seen: AtomicU64,
    /// Milliseconds since `made` at the last known progress.
    at_ms: AtomicU64,
    /// Milliseconds since `made` at the last entry of `poll`.
    polled_at_ms: AtomicU64,
    /// Threads inside `poll` that have begun to wait.
    waiting: AtomicUsize,
}

impl Default for Progress {
    /// Progress that was last made now.
    fn default() -> Self {
        Self {
            made: Instant::now(),
            taken: AtomicU64::new(0),
            seen: AtomicU64::new(0),
            at_ms: AtomicU64::new(0),
            polled_at_ms: AtomicU64::new(0),
            waiting: AtomicUsize::new(0),
        }
    }
}

impl Progress {
    /// A record, or several at once, were taken out of what `poll` returned. The hot path.
    ///
    /// A load and a store instead of an atomic addition, which costs many times as much. Between two threads that do so at
    /// once an addition may be lost, or the counter may fall back; it changes all the same, and that is all that is looked at.
    #[inline]
    pub fn took(&self) {
        let taken = self.taken.load(Ordering::Relaxed);
        self.taken.store(taken.wrapping_add(1), Ordering::Relaxed);
    }

    /// The user says that there is progress.
    pub fn note(&self) {
        self.note_at(self.now_ms());
    }

    /// `poll` is entered.
    pub fn poll_entered(&self) {
        let now_ms = self.now_ms();
        self.polled_at_ms.fetch_max(now_ms, Ordering::Relaxed);
        self.note_at(now_ms);
    }

    /// `poll` begins to wait; until the guard is dropped nobody is idle.
    pub fn wait(&self) -> Waiting<'_> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        Waiting { progress: self }
    }

    /// Milliseconds since `poll` was last entered, or since the start.
    pub fn since_poll_ms(&self) -> u64 {
        self.now_ms()
            .saturating_sub(self.polled_at_ms.load(Ordering::Relaxed))
    }

    /// Milliseconds since the last progress, or since the start; 0 while `poll` waits.
    pub fn idle_ms(&self) -> u64 {
        self.idle_at(self.now_ms())
    }

    fn note_at(&self, now_ms: u64) {
        self.at_ms.fetch_max(now_ms, Ordering::Relaxed);
    }

    fn idle_at(&self, now_ms: u64) -> u64 {
        let taken = self.taken.load(Ordering::Relaxed);
        if self.seen.swap(taken, Ordering::Relaxed) != taken {
            self.note_at(now_ms);
        }
        // Acquire, with the release of the guard: who sees that nobody waits any more also sees when the wait ended.
        if self.waiting.load(Ordering::Acquire) > 0 {
            return 0;
        }
        now_ms.saturating_sub(self.at_ms.load(Ordering::Relaxed))
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.made.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// While it lives, `poll` waits.
#[derive(Debug)]
#[must_use]
pub struct Waiting<'a> {
    progress: &'a Progress,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.progress.note();
        self.progress.waiting.fetch_sub(1, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_taken_is_progress_at_the_next_question() {
        let progress = Progress::default();
        assert_eq!(progress.idle_at(5_000), 5_000);
        progress.took();
        progress.took();
        assert_eq!(progress.idle_at(6_000), 0);
        assert_eq!(progress.idle_at(6_500), 500);
        progress.note_at(6_400);
        assert_eq!(progress.idle_at(6_500), 100);
    }

    #[test]
    fn a_counter_that_falls_back_is_progress() {
        let progress = Progress::default();
        progress.taken.store(7, Ordering::Relaxed);
        assert_eq!(progress.idle_at(1_000), 0);
        progress.taken.store(6, Ordering::Relaxed);
        assert_eq!(progress.idle_at(2_000), 0);
        assert_eq!(progress.idle_at(3_000), 1_000);
    }

    #[test]
    fn time_does_not_go_back() {
        let progress = Progress::default();
        progress.note_at(3_000);
        progress.note_at(2_000);
        assert_eq!(progress.idle_at(2_500), 0);
        assert_eq!(progress.idle_at(4_000), 1_000);
    }

    #[test]
    fn who_waits_in_poll_is_not_idle() {
        let progress = Progress::default();
        let first = progress.wait();
        let second = progress.wait();
        assert_eq!(progress.idle_at(9_000), 0);
        drop(first);
        assert_eq!(progress.idle_at(9_000), 0);
        drop(second);
        // The guard took the real clock, which has hardly moved.
        assert!(progress.idle_at(3_600_000) > 0);
    }
}
