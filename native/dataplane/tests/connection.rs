//! A connection's thread and what rides on it, against a peer on a real socket.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use bytes::Bytes;
use penstock_dataplane::connection::{Connection, Rider, Settings, Work};
use penstock_dataplane::events::{Event, EventQueue};

const PATIENCE: Duration = Duration::from_secs(20);
const RESPONSE_TIMEOUT: Duration = Duration::from_millis(1);

/// Asks once; then its thread has no turn until the answer is there, and much too late.
struct Stalled {
    asked: bool,
    answered: Receiver<()>,
    heard: Sender<Bytes>,
}

impl Rider for Stalled {
    fn request(&mut self, correlation_id: i32) -> Option<Vec<u8>> {
        let first = !std::mem::replace(&mut self.asked, true);
        first.then(|| correlation_id.to_be_bytes().to_vec())
    }

    fn response(&mut self, frame: Bytes) -> Result<(), String> {
        self.heard.send(frame).map_err(|gone| gone.to_string())
    }

    fn work(&mut self) -> Work {
        if self.asked && self.answered.recv_timeout(PATIENCE).is_ok() {
            let late = Instant::now() + 2 * RESPONSE_TIMEOUT;
            while Instant::now() < late {
                std::thread::yield_now();
            }
        }
        Work::Idle
    }

    fn response_timeout(&self) -> Duration {
        RESPONSE_TIMEOUT
    }

    fn wake_at(&self) -> Option<Instant> {
        None
    }
}

fn settings(listener: &TcpListener) -> Settings {
    Settings {
        host: "127.0.0.1".into(),
        port: listener.local_addr().unwrap().port(),
        connect_timeout: PATIENCE,
        max_frame_bytes: 1 << 20,
        send_buffer_bytes: None,
        receive_buffer_bytes: None,
    }
}

/// Reads one request of a correlation id alone, and sends it back.
fn echo(peer: &mut TcpStream) {
    let mut request = [0; 8];
    peer.read_exact(&mut request).unwrap();
    peer.write_all(&request).unwrap();
}

/// A suspended process, or one that had no turn, finds the answer in the socket: that answer is not late.
#[test]
fn an_answer_that_is_there_is_heard_however_late_it_is_looked_for() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let events = Arc::new(EventQueue::new().unwrap());
    let connection = Connection::open(1, settings(&listener), Arc::clone(&events)).unwrap();
    let ((answered_from, answered), (heard, hears)) = (channel(), channel());
    connection.board(Box::new(Stalled {
        asked: false,
        answered,
        heard,
    }));
    let (mut peer, _) = listener.accept().unwrap();
    echo(&mut peer);
    answered_from.send(()).unwrap();
    drop(answered_from);
    match hears.recv_timeout(PATIENCE) {
        Ok(frame) => assert_eq!(frame.len(), 4),
        Err(_) => panic!("{:?}", events.take()),
    }
}

#[test]
fn an_answer_that_does_not_come_ends_the_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let events = Arc::new(EventQueue::new().unwrap());
    let connection = Connection::open(1, settings(&listener), Arc::clone(&events)).unwrap();
    let (_, answered) = channel();
    let (heard, _hears) = channel();
    connection.board(Box::new(Stalled {
        asked: false,
        answered,
        heard,
    }));
    let deadline = Instant::now() + PATIENCE;
    let reason = loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let news = events.wait(left).unwrap().expect("an event");
        let closed = news.into_iter().find_map(|event| match event {
            Event::Closed { reason, .. } => Some(reason),
            _ => None,
        });
        if let Some(reason) = closed {
            break reason;
        }
    };
    assert_eq!(reason, "no answer to a Fetch request within 1 ms");
}
