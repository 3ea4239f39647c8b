//! A file descriptor that turns readable when another thread says so: what lets poll(2) wait for sockets, threads and
//! signals at once.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// Level-triggered: readable from `notify` until `clear`.
///
/// `pending` spares the system call where the descriptor is readable already. It is lowered after the descriptor was
/// drained, never before: otherwise a `notify` between the two would find the flag down, write, have its byte drained
/// away, and leave the flag up over an empty descriptor, so that no later `notify` would wake anybody. In the order
/// taken, a `notify` in between writes nothing, but whoever clears looks at the shared state only afterwards and sees
/// what the notifier did.
///
/// It is not lowered where nothing was drained. Then a `notify` has raised it and is about to write; with the flag down
/// under that byte, no later `clear` would drain it, and who waits would be woken again and again.
#[derive(Debug)]
pub struct Signal {
    reader: OwnedFd,
    #[cfg(not(target_os = "linux"))]
    writer: OwnedFd,
    pending: AtomicBool,
}

impl Signal {
    /// A signal that is not raised.
    ///
    /// # Errors
    /// What the operating system says, mostly that no more files may be open.
    pub fn new() -> std::io::Result<Self> {
        #[cfg(target_os = "linux")]
        {
            use rustix::event::{EventfdFlags, eventfd};
            let reader = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
            Ok(Self {
                reader,
                pending: AtomicBool::new(false),
            })
        }
        #[cfg(not(target_os = "linux"))]
        {
            let (reader, writer) = rustix::pipe::pipe()?;
            for end in [&reader, &writer] {
                rustix::io::ioctl_fionbio(end, true)?;
                rustix::io::fcntl_setfd(end, rustix::io::FdFlags::CLOEXEC)?;
            }
            Ok(Self {
                reader,
                writer,
                pending: AtomicBool::new(false),
            })
        }
    }

    /// Make the descriptor readable.
    pub fn notify(&self) {
        if !self.pending.swap(true, Ordering::AcqRel) {
            #[cfg(target_os = "linux")]
            let writer = &self.reader;
            #[cfg(not(target_os = "linux"))]
            let writer = &self.writer;
            // A full pipe is readable, which is all that is wanted.
            let _ = rustix::io::write(writer, &1_u64.to_ne_bytes());
        }
    }

    /// Make it unreadable, or as good as: it may turn readable once more for a `notify` that has begun. Look at the shared
    /// state afterwards, not before.
    pub fn clear(&self) {
        if self.pending.load(Ordering::Acquire) {
            let mut sink = [0_u8; 64];
            let mut drained = 0;
            while let Ok(count @ 1..) = rustix::io::read(&self.reader, &mut sink[..]) {
                drained += count;
                if count < sink.len() {
                    break;
                }
            }
            if drained > 0 {
                self.pending.swap(false, Ordering::AcqRel);
            }
        }
    }

    /// Waits until notified; false after the timeout (None: no limit).
    ///
    /// # Errors
    /// `Errno::INTR` when a signal of the operating system arrived.
    pub fn wait(&self, timeout: Option<Duration>) -> Result<bool, Errno> {
        let mut fds = [PollFd::new(&self.reader, PollFlags::IN)];
        Ok(poll(&mut fds, timeout.map(timespec).as_ref())? > 0)
    }
}

impl AsFd for Signal {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.reader.as_fd()
    }
}

/// A duration as ppoll(2) takes it.
pub(crate) fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(duration.subsec_nanos()) as _,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    const ROUNDS: usize = 20_000;

    /// The interleaving: `notify` raises the flag; `clear` sees it, finds the descriptor empty still; `notify` writes. Were the
    /// flag down now, no later `clear` would drain the descriptor, and whoever waits for it would not sleep any more.
    #[test]
    fn a_clear_amid_a_notify_leaves_nothing_that_cannot_be_cleared() {
        let signal = Signal::new().unwrap();
        let start = std::sync::Barrier::new(2);
        let notified = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            let notifier = scope.spawn(|| {
                for round in 1..=ROUNDS {
                    start.wait();
                    signal.notify();
                    notified.store(round, Ordering::Release);
                }
            });
            let mut stuck = 0;
            for round in 1..=ROUNDS {
                start.wait();
                while notified.load(Ordering::Acquire) < round {
                    signal.clear();
                }
                signal.clear();
                stuck += usize::from(signal.wait(Some(Duration::ZERO)).unwrap());
            }
            notifier.join().unwrap();
            assert_eq!(stuck, 0, "of {ROUNDS} rounds");
        });
    }

    #[test]
    fn stays_raised_until_cleared() {
        let signal = Signal::new().unwrap();
        let none = Some(Duration::ZERO);
        assert_eq!(signal.wait(none), Ok(false));
        signal.notify();
        signal.notify();
        assert_eq!(signal.wait(none), Ok(true));
        assert_eq!(signal.wait(none), Ok(true));
        signal.clear();
        assert_eq!(signal.wait(none), Ok(false));
        signal.notify();
        assert_eq!(signal.wait(None), Ok(true));
    }
}
