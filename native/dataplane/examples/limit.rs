//! How fast can anything read from this broker? Fetches as a consumer does, and throws the bytes away.
//!
//! One connection per leader, two fetches in flight on it (its partitions are split in two), the next offsets from a scan
//! of the batch headers alone. No checksum, no decompression, no record. The benchmark shows it as "limit".
//!
//!     limit HOST:PORT TOPIC PARTITIONS WARMUP LIMIT_SECONDS
//!
//! It is so fast that it reads a topic again and again until LIMIT_SECONDS are over.
//!
//! Source: <https://kafka.apache.org/protocol#protocol_messages> (Metadata version 1, Fetch version 4), record batch
//! format of <https://kafka.apache.org/documentation/#recordbatch>.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::{Error, ErrorKind, Read, Result, Write};
use std::net::TcpStream;
use std::sync::Mutex;
use std::time::Instant;

const FETCH: i16 = 1;
const METADATA: i16 = 3;
/// Next to none: while the broker waits for one half of the partitions, it does not look at the request for the other.
const MAX_WAIT_MS: i32 = 1;
const MAX_BYTES: i32 = 52_428_800;
const MAX_PARTITION_BYTES: i32 = 1_048_576;
const MAX_FRAME_BYTES: usize = 256 * 1024 * 1024;
const BATCH_HEADER_BYTES: usize = 61;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [bootstrap, topic, partitions, warmup, limit_s] = args.as_slice() else {
        return Err(Error::other(
            "limit HOST:PORT TOPIC PARTITIONS WARMUP LIMIT_SECONDS",
        ));
    };
    let partitions: usize = parse(partitions)?;
    let meter = Mutex::new(Meter {
        warmup: parse(warmup)?,
        limit_s: parse(limit_s)?,
        ..Meter::default()
    });
    let leaders = leaders(bootstrap, topic)?;
    let found: usize = leaders.values().map(Vec::len).sum();
    if found != partitions {
        return Err(Error::other(format!(
            "{topic} has {found} partitions with a leader, {partitions} were expected"
        )));
    }
    std::thread::scope(|scope| {
        let loops: Vec<_> = leaders
            .into_iter()
            .map(|(address, numbers)| {
                let meter = &meter;
                scope.spawn(move || fetch_loop(&address, topic, numbers, meter))
            })
            .collect();
        for fetching in loops {
            fetching
                .join()
                .map_err(|_| Error::other("a fetch loop panicked"))??;
        }
        Ok::<(), Error>(())
    })?;
    let meter = meter
        .into_inner()
        .map_err(|_| Error::other("a fetch loop panicked"))?;
    println!("{}", meter.report()?);
    Ok(())
}

fn parse<T: std::str::FromStr>(text: &str) -> Result<T> {
    text.parse()
        .map_err(|_| Error::other(format!("{text:?} is not a number")))
}

/// What benchmarks/meter.py measures, for all fetch loops together.
#[derive(Default)]
struct Meter {
    warmup: u64,
    limit_s: f64,
    records: u64,
    bytes: u64,
    begin: Option<(Instant, f64, u64, u64)>,
    end: Option<(f64, f64)>,
}

impl Meter {
    /// Count one response; true when there is enough.
    fn add(&mut self, records: u64, bytes: u64) -> Result<bool> {
        if self.end.is_some() {
            return Ok(true);
        }
        self.records += records;
        self.bytes += bytes;
        let Some((begin, ..)) = self.begin else {
            if self.records >= self.warmup {
                self.begin = Some((Instant::now(), cpu_seconds()?, self.records, self.bytes));
            }
            return Ok(false);
        };
        let seconds = begin.elapsed().as_secs_f64();
        if seconds >= self.limit_s {
            self.end = Some((seconds, cpu_seconds()?));
        }
        Ok(self.end.is_some())
    }

    fn report(&self) -> Result<String> {
        let (Some((_, begin_cpu, records, bytes)), Some((seconds, end_cpu))) =
            (self.begin, self.end)
        else {
            return Err(Error::other("too few records arrived to measure anything"));
        };
        let mut line = String::new();
        write!(
            line,
            r#"{{"records": {}, "bytes": {}, "seconds": {:.6}, "cpu_seconds": {:.2}, "peak_rss_bytes": {}}}"#,
            self.records - records,
            self.bytes - bytes,
            seconds,
            end_cpu - begin_cpu,
            peak_rss_bytes()?
        )
        .map_err(Error::other)?;
        Ok(line)
    }
}

/// User and system time of all threads. Linux counts it in hundredths of a second here (proc(5), fields 14 and 15).
fn cpu_seconds() -> Result<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    let ticks = |index: usize| -> Result<f64> { parse(fields.get(index).copied().unwrap_or("")) };
    Ok((ticks(11)? + ticks(12)?) / 100.0)
}

fn peak_rss_bytes() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().nth(1));
    Ok(parse::<u64>(kilobytes.unwrap_or(""))? * 1024)
}

// ---------------------------------------------------------------- one connection

struct Connection {
    stream: TcpStream,
    frame: Vec<u8>,
    correlation_id: i32,
}

impl Connection {
    fn open(address: &str) -> Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            frame: Vec::new(),
            correlation_id: 0,
        })
    }

    fn send(&mut self, api_key: i16, version: i16, body: &[u8]) -> Result<()> {
        self.correlation_id += 1;
        let mut request = vec![0; 4];
        request.extend(api_key.to_be_bytes());
        request.extend(version.to_be_bytes());
        request.extend(self.correlation_id.to_be_bytes());
        put_string(&mut request, "penstock-limit");
        request.extend(body);
        let size = i32::try_from(request.len() - 4).map_err(Error::other)?;
        request[..4].copy_from_slice(&size.to_be_bytes());
        self.stream.write_all(&request)
    }

    /// The next response, behind its correlation id.
    fn receive(&mut self) -> Result<&[u8]> {
        let mut size = [0; 4];
        self.stream.read_exact(&mut size)?;
        let size = usize::try_from(i32::from_be_bytes(size)).map_err(Error::other)?;
        if !(4..=MAX_FRAME_BYTES).contains(&size) {
            return Err(Error::other(format!("a frame of {size} bytes")));
        }
        if self.frame.len() < size {
            self.frame.resize(size, 0);
        }
        self.stream.read_exact(&mut self.frame[..size])?;
        Ok(&self.frame[4..size])
    }
}

fn put_string(into: &mut Vec<u8>, text: &str) {
    into.extend((text.len() as u16).to_be_bytes());
    into.extend(text.as_bytes());
}

/// Reads fields one after the other.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, size: usize) -> Result<&'a [u8]> {
        if self.0.len() < size {
            return Err(Error::from(ErrorKind::UnexpectedEof));
        }
        let (head, tail) = self.0.split_at(size);
        self.0 = tail;
        Ok(head)
    }

    fn i16(&mut self) -> Result<i16> {
        Ok(i16::from_be_bytes(array(self.take(2)?)))
    }

    fn i32(&mut self) -> Result<i32> {
        Ok(i32::from_be_bytes(array(self.take(4)?)))
    }

    /// A length or a count; -1 (null) reads as 0.
    fn size(&mut self) -> Result<usize> {
        Ok(usize::try_from(self.i32()?).unwrap_or(0))
    }

    fn string(&mut self) -> Result<String> {
        let size = usize::try_from(self.i16()?).unwrap_or(0);
        Ok(String::from_utf8_lossy(self.take(size)?).into_owned())
    }
}

fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut copy = [0; N];
    copy.copy_from_slice(bytes);
    copy
}

/// The topic's partitions by the address of their leader.
fn leaders(bootstrap: &str, topic: &str) -> Result<HashMap<String, Vec<i32>>> {
    let mut connection = Connection::open(bootstrap)?;
    let mut body = 1_i32.to_be_bytes().to_vec();
    put_string(&mut body, topic);
    connection.send(METADATA, 1, &body)?;
    let mut response = Cursor(connection.receive()?);
    let mut addresses = HashMap::new();
    for _ in 0..response.size()? {
        let node = response.i32()?;
        let host = response.string()?;
        addresses.insert(node, format!("{host}:{}", response.i32()?));
        response.string()?; // rack
    }
    response.i32()?; // controller
    let mut found: HashMap<String, Vec<i32>> = HashMap::new();
    for _ in 0..response.size()? {
        response.i16()?; // error
        response.string()?;
        response.take(1)?; // internal
        for _ in 0..response.size()? {
            response.i16()?; // error
            let partition = response.i32()?;
            let leader = response.i32()?;
            for _ in 0..2 {
                let nodes = response.size()?;
                response.take(4 * nodes)?;
            }
            if let Some(address) = addresses.get(&leader) {
                found.entry(address.clone()).or_default().push(partition);
            }
        }
    }
    Ok(found)
}

// ---------------------------------------------------------------- fetching

fn fetch_loop(
    address: &str,
    topic: &str,
    partitions: Vec<i32>,
    meter: &Mutex<Meter>,
) -> Result<()> {
    let mut offsets: HashMap<i32, i64> = partitions.iter().map(|number| (*number, 0)).collect();
    let (left, right) = partitions.split_at(partitions.len().div_ceil(2));
    let halves: Vec<&[i32]> = [left, right]
        .into_iter()
        .filter(|half| !half.is_empty())
        .collect();
    let mut connection = Connection::open(address)?;
    for half in &halves {
        connection.send(FETCH, 4, &fetch_request(topic, half, &offsets))?;
    }
    for half in halves.iter().cycle() {
        let (records, bytes) = read_fetch(connection.receive()?, &mut offsets)?;
        let mut meter = meter
            .lock()
            .map_err(|_| Error::other("a fetch loop panicked"))?;
        if meter.add(records, bytes)? {
            break;
        }
        drop(meter);
        connection.send(FETCH, 4, &fetch_request(topic, half, &offsets))?;
    }
    Ok(())
}

fn fetch_request(topic: &str, partitions: &[i32], offsets: &HashMap<i32, i64>) -> Vec<u8> {
    let mut body = Vec::with_capacity(64 + 16 * partitions.len());
    body.extend((-1_i32).to_be_bytes()); // a consumer, not a replica
    body.extend(MAX_WAIT_MS.to_be_bytes());
    body.extend(1_i32.to_be_bytes()); // min_bytes
    body.extend(MAX_BYTES.to_be_bytes());
    body.push(0); // read uncommitted
    body.extend(1_i32.to_be_bytes());
    put_string(&mut body, topic);
    body.extend((partitions.len() as i32).to_be_bytes());
    for number in partitions {
        body.extend(number.to_be_bytes());
        body.extend(offsets[number].to_be_bytes());
        body.extend(MAX_PARTITION_BYTES.to_be_bytes());
    }
    body
}

/// Moves the offsets on; returns the records and bytes of the response.
fn read_fetch(frame: &[u8], offsets: &mut HashMap<i32, i64>) -> Result<(u64, u64)> {
    let mut response = Cursor(frame);
    let (mut records, mut bytes) = (0, 0);
    response.i32()?; // throttle time
    for _ in 0..response.size()? {
        response.string()?;
        for _ in 0..response.size()? {
            let partition = response.i32()?;
            let error = response.i16()?;
            if error != 0 {
                return Err(Error::other(format!(
                    "partition {partition}: error code {error}"
                )));
            }
            response.take(16)?; // high watermark, last stable offset
            let aborted = response.size()?;
            response.take(16 * aborted)?;
            let size = response.size()?;
            let (count, next) = scan(response.take(size)?);
            records += count;
            bytes += size as u64;
            // Nothing more: from the start again.
            offsets.insert(partition, next.unwrap_or(0));
        }
    }
    Ok((records, bytes))
}

/// The records of a record set's whole batches, and the offset behind the last one.
fn scan(mut batches: &[u8]) -> (u64, Option<i64>) {
    let (mut records, mut next) = (0, None);
    while batches.len() >= BATCH_HEADER_BYTES {
        let size = 12 + i32::from_be_bytes(array(&batches[8..12])).max(0) as usize;
        if size < BATCH_HEADER_BYTES || size > batches.len() {
            break;
        }
        let base = i64::from_be_bytes(array(&batches[..8]));
        next = Some(base + i64::from(i32::from_be_bytes(array(&batches[23..27]))) + 1);
        records += i32::from_be_bytes(array(&batches[57..61])).max(0) as u64;
        batches = &batches[size..];
    }
    (records, next)
}
