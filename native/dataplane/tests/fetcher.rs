//! The fetcher as an event loop sees it: a descriptor.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use penstock_dataplane::decode::DecodeOptions;
use penstock_dataplane::events::EventQueue;
use penstock_dataplane::fetch::{FetchConfig, Fetcher, Polled};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

const AT_ONCE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 0,
};

fn fetcher() -> Fetcher {
    let config = FetchConfig {
        client_id: "c".into(),
        client_rack: String::new(),
        isolation_level: 0,
        max_wait_ms: 500,
        min_bytes: 1,
        max_bytes: 1 << 20,
        max_partition_bytes: 1 << 20,
        decode: DecodeOptions::default(),
        buffer_bytes: 1 << 20,
        request_timeout: Duration::from_secs(30),
    };
    Fetcher::new(config, Arc::new(EventQueue::new().unwrap())).unwrap()
}

fn is_readable(descriptor: impl AsFd) -> bool {
    let mut fds = [PollFd::new(&descriptor, PollFlags::IN)];
    poll(&mut fds, Some(&AT_ONCE)).unwrap() == 1
}

/// A poll that waits may end, in a signal's handler that raises, between the two.
#[test]
fn the_descriptor_is_lowered_by_who_looks_not_by_who_waits() {
    let fetcher = fetcher();
    let descriptor = fetcher.watch();
    assert!(!is_readable(descriptor));
    fetcher.wake();
    fetcher.wait(Duration::ZERO).unwrap();
    assert!(is_readable(descriptor));
    assert!(matches!(fetcher.try_poll(1), Polled::Woken));
    assert!(!is_readable(descriptor));
}

#[test]
fn a_poll_that_found_nothing_waits_until_it_is_woken() {
    let fetcher = fetcher();
    for _ in 0..3 {
        assert!(matches!(fetcher.try_poll(1), Polled::Nothing));
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| {
                while matches!(fetcher.try_poll(1), Polled::Nothing) {
                    fetcher.wait(Duration::from_secs(60)).unwrap();
                }
            });
            fetcher.wake();
            waits.join().unwrap();
        });
    }
    fetcher.close();
    assert!(matches!(fetcher.try_poll(1), Polled::Closed));
}
