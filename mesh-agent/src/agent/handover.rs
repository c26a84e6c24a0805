//! An agent that starts while another serves from the same state directory takes its place: the sockets that listen in
//! the pods go from the one to the other, so that no connection ever finds them closed.
//!
//! The newcomer asks on `handover.sock` and gets every listener (SCM_RIGHTS, unix(7)). Both then share them. Once it serves,
//! with its own heartbeat, it says so; the other lets go and drains. If it ends before that, nothing has happened.

use std::collections::HashMap;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::admin::Command;
use crate::enrol::Set;

/// The socket's name in the state directory.
pub(super) const NAME: &str = "handover.sock";
/// Raised when the frames change their meaning: then the newcomer waits for the other's end instead.
const VERSION: u32 = 1;
/// Descriptors that go with one frame, well below SCM_MAX_FD (253).
const BATCH: usize = 64;
/// For each frame and answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// For the newcomer to read its configuration and to enter every pod.
const START: Duration = Duration::from_secs(300);
const TAKE: u8 = b'T';
const GONE: u8 = b'G';

/// What goes with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Version = 0,
    Metrics = 1,
    Outbound = 2,
    Inbound = 3,
    End = 4,
    Hbone = 5,
}

/// What a serving agent hands over.
#[derive(Debug, Default)]
pub struct Handed {
    /// Where metrics are served.
    pub metrics: Option<TcpListener>,
    /// Listeners of all workers, by the pod's netns cookie.
    pub pods: HashMap<u64, Set>,
}

/// The connection to the agent whose place is taken.
#[derive(Debug)]
pub struct Predecessor(UnixStream);

/// Asks the agent that serves from `state_dir`, if there is one. None: there is none, or it doesn't hand over.
pub fn receive(state_dir: &Path) -> Option<(Handed, Predecessor)> {
    let stream = UnixStream::connect(state_dir.join(NAME)).ok()?;
    match receive_all(&stream) {
        Ok(handed) => {
            tracing::info!(pods = handed.pods.len(), "taking over from the agent that runs here");
            Some((handed, Predecessor(stream)))
        }
        Err(error) => {
            tracing::warn!(%error, "the agent that runs here doesn't hand over; waiting for its end");
            None
        }
    }
}

impl Predecessor {
    /// This agent serves: the other lets go. Returns once it has.
    ///
    /// # Errors
    /// It doesn't answer; it may be dead, which is as good.
    pub fn let_go(mut self) -> io::Result<()> {
        self.0.write_all(&[TAKE])?;
        let mut answer = [0];
        self.0.read_exact(&mut answer)?;
        if answer == [GONE] { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
    }
}

/// Hands over to whoever asks, until somebody has taken over.
pub async fn serve(listener: UnixListener, metrics: TcpListener, control: mpsc::Sender<Command>) {
    loop {
        let done = match listener.accept().await {
            Ok((stream, _)) => match stream.into_std() {
                Ok(stream) => hand_over(stream, &metrics, &control).await,
                Err(error) => Err(error),
            },
            Err(error) => Err(error),
        };
        match done {
            Ok(true) => return,
            Ok(false) => tracing::warn!("the agent that wanted to take over has ended; serving on"),
            Err(error) => {
                tracing::warn!(%error, "can't hand over");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// True once the other has taken over.
async fn hand_over(
    stream: UnixStream,
    metrics: &TcpListener,
    control: &mpsc::Sender<Command>,
) -> io::Result<bool> {
    let ended = |_| io::Error::other("this agent ends");
    let (answer, answered) = oneshot::channel();
    control.send(Command::HandOver(answer)).await.map_err(|_| io::Error::other("this agent ends"))?;
    let handed = Handed { metrics: Some(metrics.try_clone()?), pods: answered.await.map_err(ended)? };
    let sent = move || {
        stream.set_nonblocking(false)?;
        stream.set_write_timeout(Some(PATIENCE))?;
        send_all(&stream, &handed)?;
        stream.set_nonblocking(true).map(|()| stream)
    };
    let stream = tokio::task::spawn_blocking(sent).await.map_err(io::Error::other)??;
    let mut stream = tokio::net::UnixStream::from_std(stream)?;
    match timeout(START, stream.read_u8()).await {
        Ok(Ok(TAKE)) => {}
        _ => return Ok(false),
    }
    let (answer, answered) = oneshot::channel();
    control.send(Command::Replaced(answer)).await.map_err(|_| io::Error::other("this agent ends"))?;
    // By itself: this task is one of the servers, which end as soon as the control loop has heard.
    tokio::spawn(async move {
        if answered.await.is_ok() {
            // The other may be dead by now.
            let _ = stream.write_u8(GONE).await;
        }
    });
    Ok(true)
}

fn send_all(stream: &UnixStream, handed: &Handed) -> io::Result<()> {
    send(stream, What::Version, u64::from(VERSION), &[])?;
    if let Some(metrics) = &handed.metrics {
        send(stream, What::Metrics, 0, &[metrics.as_fd()])?;
    }
    for (cookie, set) in &handed.pods {
        let Set { outbound, inbound, hbone } = set;
        for (what, listeners) in [(What::Outbound, outbound), (What::Inbound, inbound), (What::Hbone, hbone)]
        {
            let descriptors: Vec<BorrowedFd<'_>> = listeners.iter().map(AsFd::as_fd).collect();
            for batch in descriptors.chunks(BATCH) {
                send(stream, what, *cookie, batch)?;
            }
        }
    }
    send(stream, What::End, 0, &[])
}

/// A frame is eight bytes of kind and eight of number; descriptors go with its first byte.
fn send(stream: &UnixStream, what: What, number: u64, with: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut frame = [0; 16];
    frame[..8].copy_from_slice(&(what as u64).to_le_bytes());
    frame[8..].copy_from_slice(&number.to_le_bytes());
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
    let mut rights = SendAncillaryBuffer::new(&mut space);
    if !with.is_empty() {
        rights.push(SendAncillaryMessage::ScmRights(with));
    }
    let sent = sendmsg(stream, &[IoSlice::new(&frame)], &mut rights, SendFlags::NOSIGNAL)?;
    if sent == frame.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

fn receive_all(stream: &UnixStream) -> io::Result<Handed> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let odd = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    match receive_frame(stream)? {
        (kind, version, _) if kind == What::Version as u64 && version == u64::from(VERSION) => {}
        _ => return Err(odd("it speaks another version of handing over")),
    }
    let mut handed = Handed::default();
    loop {
        let (kind, number, with) = receive_frame(stream)?;
        let mut listeners = with.into_iter().map(TcpListener::from);
        match kind {
            kind if kind == What::Metrics as u64 => handed.metrics = listeners.next(),
            kind if kind == What::Outbound as u64 => {
                handed.pods.entry(number).or_default().outbound.extend(listeners);
            }
            kind if kind == What::Inbound as u64 => {
                handed.pods.entry(number).or_default().inbound.extend(listeners);
            }
            kind if kind == What::Hbone as u64 => {
                handed.pods.entry(number).or_default().hbone.extend(listeners);
            }
            kind if kind == What::End as u64 => return Ok(handed),
            _ => return Err(odd("a frame of an unknown kind")),
        }
    }
}

fn receive_frame(stream: &UnixStream) -> io::Result<(u64, u64, Vec<OwnedFd>)> {
    let mut frame = [0; 16];
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
    let mut rights = RecvAncillaryBuffer::new(&mut space);
    let got =
        recvmsg(stream, &mut [IoSliceMut::new(&mut frame)], &mut rights, RecvFlags::CMSG_CLOEXEC)?.bytes;
    let descriptors = rights
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
            _ => None,
        })
        .flatten()
        .collect();
    if got == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let mut rest = stream;
    rest.read_exact(&mut frame[got..])?;
    let number = |bytes: &[u8]| bytes.try_into().map_or(0, u64::from_le_bytes);
    Ok((number(&frame[..8]), number(&frame[8..]), descriptors))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    fn listener() -> TcpListener {
        TcpListener::bind("127.0.0.1:0").unwrap()
    }

    fn control(taken: bool) -> (mpsc::Sender<Command>, tokio::task::JoinHandle<bool>) {
        let (sender, mut commands) = mpsc::channel(1);
        let serving = tokio::spawn(async move {
            let Some(Command::HandOver(answer)) = commands.recv().await else { panic!("nobody asks") };
            let many = (0..BATCH + 1).map(|_| listener()).collect();
            let set = Set { outbound: many, inbound: vec![listener()], hbone: vec![listener(), listener()] };
            answer.send(HashMap::from([(7, set)])).unwrap();
            match commands.recv().await {
                Some(Command::Replaced(answer)) => answer.send(()).is_ok(),
                _ => !taken,
            }
        });
        (sender, serving)
    }

    async fn hand(taken: bool) -> bool {
        let (old, new) = UnixStream::pair().unwrap();
        let (sender, serving) = control(taken);
        let metrics = listener();
        let address = metrics.local_addr().unwrap();
        let newcomer = tokio::task::spawn_blocking(move || {
            let handed = receive_all(&new).unwrap();
            assert_eq!(handed.metrics.unwrap().local_addr().unwrap(), address);
            let set = &handed.pods[&7];
            assert_eq!((set.outbound.len(), set.inbound.len(), set.hbone.len()), (BATCH + 1, 1, 2));
            if taken {
                Predecessor(new).let_go().unwrap();
            }
        });
        let done = hand_over(old, &metrics, &sender).await.unwrap();
        newcomer.await.unwrap();
        drop(sender);
        assert!(serving.await.unwrap());
        done
    }

    #[tokio::test]
    async fn every_listener_is_handed_over_and_the_other_lets_go_when_told() {
        assert!(hand(true).await);
    }

    #[tokio::test]
    async fn a_newcomer_that_ends_before_it_serves_changes_nothing() {
        assert!(!hand(false).await);
    }
}
