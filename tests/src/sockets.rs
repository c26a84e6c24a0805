//! A pod whose sockets the test holds: made by a helper process inside the pod's namespace and cgroup, passed out, and
//! used from here, so that a test sees every errno and every byte itself.

use std::io::{self, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::ops::Deref;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use mesh_agent::lab::{Pod, Running, Topology, eventually};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use socket2::{Domain, SockAddr, Socket};

use crate::PATIENCE;

/// A pod and its sockets. Cheap to clone.
#[derive(Clone)]
pub struct Host {
    pod: Pod,
    helper: Arc<Mutex<Helper>>,
}

struct Helper {
    stream: UnixStream,
    _process: Running,
}

impl Deref for Host {
    type Target = Pod;
    fn deref(&self) -> &Pod {
        &self.pod
    }
}

impl Host {
    /// Starts the helper in `pod`.
    pub fn new(topology: &Topology, pod: Pod) -> Result<Self> {
        let path = topology.scratch().join(format!("{}.sock", pod.netns().name()));
        let listener = UnixListener::bind(&path)?;
        listener.set_nonblocking(true)?;
        let process = pod.command(helper_binary()?).arg(&path).start()?;
        let (stream, _) = eventually(PATIENCE, || listener.accept().context("pod-sockets didn't come"))?;
        stream.set_nonblocking(false)?;
        let helper = Arc::new(Mutex::new(Helper { stream, _process: process }));
        Ok(Self { pod, helper })
    }

    /// A fresh stream socket of this pod.
    pub fn socket(&self, domain: Domain) -> Result<Socket> {
        self.made(if domain == Domain::IPV6 { b'6' } else { b'4' })
    }

    /// A fresh datagram socket of this pod; every wait on it has a deadline.
    pub fn udp(&self, domain: Domain) -> Result<UdpSocket> {
        let socket = UdpSocket::from(self.made(if domain == Domain::IPV6 { b'v' } else { b'u' })?);
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(socket)
    }

    fn made(&self, wanted: u8) -> Result<Socket> {
        let mut helper = self.helper.lock().unwrap_or_else(PoisonError::into_inner);
        helper.stream.write_all(&[wanted])?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut rights = RecvAncillaryBuffer::new(&mut space);
        recvmsg(&helper.stream, &mut [IoSliceMut::new(&mut [0])], &mut rights, RecvFlags::CMSG_CLOEXEC)?;
        let passed = rights.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        });
        let fd: OwnedFd = passed.context("pod-sockets sent no socket")?;
        Ok(Socket::from(fd))
    }

    /// connect(2) from this pod; every wait on the stream has a deadline.
    pub fn connect(&self, to: SocketAddr) -> io::Result<TcpStream> {
        self.connect_within(to, PATIENCE)
    }

    /// connect(2) from this pod that gives up after `deadline`.
    pub fn connect_within(&self, to: SocketAddr, deadline: Duration) -> io::Result<TcpStream> {
        let socket = self.socket(Domain::for_address(to)).map_err(io::Error::other)?;
        connect(socket, to, deadline)
    }

    /// connect(2) from a given local port, on this pod's own address.
    pub fn connect_from(&self, port: u16, to: SocketAddr) -> io::Result<TcpStream> {
        let own: IpAddr = if to.is_ipv4() { self.v4().into() } else { self.v6().into() };
        self.connect_as(SocketAddr::new(own, port), to)
    }

    /// connect(2) from a given address, which the pod may have taken.
    pub fn connect_as(&self, from: SocketAddr, to: SocketAddr) -> io::Result<TcpStream> {
        let socket = self.socket(Domain::for_address(to)).map_err(io::Error::other)?;
        socket.set_reuse_address(true)?;
        socket.bind(&from.into())?;
        connect(socket, to, PATIENCE)
    }

    /// connect(2) to an IPv4 address through an IPv6 socket (IPv4-mapped).
    pub fn connect_mapped(&self, to: Ipv4Addr, port: u16) -> io::Result<TcpStream> {
        let socket = self.socket(Domain::IPV6).map_err(io::Error::other)?;
        socket.set_only_v6(false)?;
        connect(socket, SocketAddr::new(to.to_ipv6_mapped().into(), port), PATIENCE)
    }

    /// Listens on every address of both families.
    pub fn listen(&self, port: u16) -> Result<TcpListener> {
        let socket = self.socket(Domain::IPV6)?;
        socket.set_only_v6(false)?;
        listening(socket, SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port))
    }

    /// Listens on one address.
    pub fn listen_at(&self, address: SocketAddr) -> Result<TcpListener> {
        listening(self.socket(Domain::for_address(address))?, address)
    }

    /// This pod's IPv4 address with a port.
    pub fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.v4().into(), port)
    }

    /// This pod's IPv6 address with a port.
    pub fn at6(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.v6().into(), port)
    }

    /// `curl ARGS` in the pod: standard output; fails on any curl error.
    pub fn curl(&self, args: &[&str]) -> Result<String> {
        Ok(self
            .command("curl")
            .args(["-sS", "--max-time", "10"])
            .args(args)
            .run(PATIENCE * 2)?
            .success()?
            .stdout)
    }

    /// `curl ARGS` in the pod: its exit code (7 refused, 52 empty answer, 28 time-out, ...).
    pub fn curl_code(&self, args: &[&str]) -> Result<i32> {
        Ok(self.command("curl").args(["-sS", "--max-time", "10"]).args(args).run(PATIENCE * 2)?.code)
    }
}

/// connect(2) of a socket that was made anywhere; every wait on the stream has a deadline.
pub fn connect(socket: Socket, to: SocketAddr, deadline: Duration) -> io::Result<TcpStream> {
    socket.connect_timeout(&SockAddr::from(to), deadline)?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn listening(socket: Socket, address: SocketAddr) -> Result<TcpListener> {
    socket.set_reuse_address(true)?;
    socket.bind(&address.into()).with_context(|| format!("binding {address}"))?;
    socket.listen(1024)?;
    Ok(TcpListener::from(socket))
}

fn helper_binary() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    match own.ancestors().skip(1).take(3).map(|dir| dir.join("pod-sockets")).find(|path| path.is_file()) {
        Some(path) => Ok(path),
        None => bail!("no pod-sockets beside {}", own.display()),
    }
}
