//! From a host's name to a connected socket, and the seam behind which TLS has its place.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType, ipproto, sockopt};

use crate::signal::{Signal, timespec};

/// How a connection is made.
#[derive(Clone, Debug)]
pub struct Settings {
    /// A name or an address.
    pub host: String,
    /// The port.
    pub port: u16,
    /// How long each address of the host may take.
    pub connect_timeout: Duration,
    /// Frames above this are refused.
    pub max_frame_bytes: usize,
    /// SO_SNDBUF; None leaves it to the operating system.
    pub send_buffer_bytes: Option<usize>,
    /// SO_RCVBUF; None leaves it to the operating system.
    pub receive_buffer_bytes: Option<usize>,
}

/// What carries the bytes. Non-blocking. TLS becomes a second variant, which reads and writes through the first.
#[derive(Debug)]
pub(crate) enum Transport {
    Plain(OwnedFd),
}

impl Transport {
    /// Bytes into `space`; 0 at the end of the stream.
    pub fn read(&mut self, space: &mut [u8]) -> Result<usize, Errno> {
        match self {
            Self::Plain(socket) => rustix::io::read(&*socket, space),
        }
    }

    /// Ends it for whoever has a copy of the descriptor. What was written still goes out.
    pub fn shut_down(&self) {
        match self {
            Self::Plain(socket) => {
                // An error says that the connection has ended already.
                let _ = rustix::net::shutdown(socket, rustix::net::Shutdown::Both);
            }
        }
    }

    pub fn write(&mut self, bytes: &[u8]) -> Result<usize, Errno> {
        match self {
            #[cfg(target_os = "linux")]
            Self::Plain(socket) => {
                rustix::net::send(&*socket, bytes, rustix::net::SendFlags::NOSIGNAL)
            }
            #[cfg(not(target_os = "linux"))]
            Self::Plain(socket) => rustix::io::write(&*socket, bytes),
        }
    }
}

impl AsFd for Transport {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Plain(socket) => socket.as_fd(),
        }
    }
}

/// Why there is no connection.
#[derive(Debug)]
pub(crate) enum ConnectError {
    /// The caller wants no connection any more.
    Interrupted,
    /// What happened at each address.
    Failed(String),
}

/// Tries the host's addresses in turn. `stop` is asked whenever `signal` is raised.
pub(crate) fn connect(
    settings: &Settings,
    signal: &Signal,
    stop: impl Fn() -> bool,
) -> Result<(Transport, SocketAddr), ConnectError> {
    let host = settings.host.as_str();
    let addresses: Vec<SocketAddr> = (host, settings.port)
        .to_socket_addrs()
        .map_err(|error| {
            ConnectError::Failed(format!(
                "the host name {host:?} cannot be resolved: {error}"
            ))
        })?
        .collect();
    let mut attempts = Vec::new();
    for address in addresses {
        if stop() {
            return Err(ConnectError::Interrupted);
        }
        match connect_to(address, settings, signal, &stop) {
            Ok(socket) => return Ok((Transport::Plain(socket), address)),
            Err(ConnectError::Interrupted) => return Err(ConnectError::Interrupted),
            Err(ConnectError::Failed(why)) => attempts.push(format!("{address}: {why}")),
        }
    }
    if attempts.is_empty() {
        return Err(ConnectError::Failed(format!(
            "the host name {host:?} has no address"
        )));
    }
    Err(ConnectError::Failed(format!(
        "could not connect to {}",
        attempts.join("; ")
    )))
}

fn failed(error: Errno) -> ConnectError {
    ConnectError::Failed(io::Error::from(error).to_string())
}

fn connect_to(
    address: SocketAddr,
    settings: &Settings,
    signal: &Signal,
    stop: &impl Fn() -> bool,
) -> Result<OwnedFd, ConnectError> {
    let socket = open(address, settings).map_err(failed)?;
    match rustix::net::connect(&socket, &address) {
        Ok(()) => return Ok(socket),
        Err(Errno::INPROGRESS | Errno::INTR) => {}
        Err(error) => return Err(failed(error)),
    }
    let deadline = Instant::now().checked_add(settings.connect_timeout);
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        if left == Some(Duration::ZERO) {
            let ms = settings.connect_timeout.as_millis();
            return Err(ConnectError::Failed(format!(
                "no connection within {ms} ms"
            )));
        }
        let mut fds = [
            PollFd::new(&socket, PollFlags::OUT),
            PollFd::new(signal, PollFlags::IN),
        ];
        match poll(&mut fds, left.map(timespec).as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(failed(error)),
        }
        let [socket_now, signal_now] = fds.map(|fd| !fd.revents().is_empty());
        if signal_now {
            signal.clear();
            if stop() {
                return Err(ConnectError::Interrupted);
            }
        }
        if socket_now {
            sockopt::socket_error(&socket)
                .map_err(failed)?
                .map_err(failed)?;
            return Ok(socket);
        }
    }
}

fn open(address: SocketAddr, settings: &Settings) -> Result<OwnedFd, Errno> {
    let family = if address.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    #[cfg(target_os = "linux")]
    let socket = {
        use rustix::net::SocketFlags;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        rustix::net::socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))?
    };
    #[cfg(not(target_os = "linux"))]
    let socket = {
        let socket = rustix::net::socket(family, SocketType::STREAM, Some(ipproto::TCP))?;
        rustix::io::fcntl_setfd(&socket, rustix::io::FdFlags::CLOEXEC)?;
        rustix::io::ioctl_fionbio(&socket, true)?;
        socket
    };
    // Requests are written whole: waiting for more to send would only delay them.
    sockopt::set_tcp_nodelay(&socket, true)?;
    // Before connect, so that the window scale is negotiated for these sizes.
    if let Some(bytes) = settings.send_buffer_bytes {
        sockopt::set_socket_send_buffer_size(&socket, bytes)?;
    }
    if let Some(bytes) = settings.receive_buffer_bytes {
        sockopt::set_socket_recv_buffer_size(&socket, bytes)?;
    }
    Ok(socket)
}
