//! A client of Redis for rate limits that agents share: one connection a worker, on which questions are pipelined.
//!
//! A question waits for its answer no longer than the timeout that it was given, and not at all while there is no
//! connection: what holds then is the policy's `onUnavailable`. The bucket is the same as in `policy::gcra`, kept by a
//! script that Redis runs as one step and by Redis' clock, so that clocks of nodes needn't agree.

mod password;
mod resp;

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};

use self::resp::Reply;
use crate::policy::gcra::{Rate, Verdict};

/// Where Redis is, and who we are to it. Has no password, only where that is found.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RedisOptions {
    /// `HOST:PORT`.
    pub address: String,
    /// ACL user.
    pub username: Option<String>,
    /// File with the password, below the agent's `secretsDir`: `NAMESPACE/NAME`.
    pub password_file: Option<PathBuf>,
}

/// Asks Redis. Clones share the connection, which ends with the last of them.
#[derive(Clone, Debug)]
pub struct Redis {
    questions: mpsc::Sender<Question>,
    connected: Arc<AtomicBool>,
}

/// Redis didn't answer in time, or there is no connection to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Redis doesn't answer")]
pub struct Unavailable;

#[derive(Debug)]
struct Question {
    key: Vec<u8>,
    cost_us: u64,
    depth_us: u64,
    answer: oneshot::Sender<Verdict>,
}

/// GCRA in microseconds; answers {passed, until full} or {refused, until one passes}.
const SCRIPT: &str = "local t = redis.call('TIME') \
local now = t[1] * 1000000 + t[2] \
local full = math.max(tonumber(redis.call('GET', KEYS[1]) or 0), now) + ARGV[1] \
local missing = full - now \
if missing > tonumber(ARGV[2]) then return {0, missing - ARGV[2]} end \
redis.call('SET', KEYS[1], string.format('%.0f', full), 'PX', math.ceil(missing / 1000) + 1) \
return {1, missing}";

/// Questions that may wait for the connection's task.
const QUEUE: usize = 1024;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
const RECONNECT_AFTER: Duration = Duration::from_millis(500);
/// A connection on which a question has no answer after this is given up.
const STUCK_AFTER: Duration = Duration::from_secs(5);

impl Redis {
    /// Begins to connect, in a task of the current runtime. Passwords are below `secrets`.
    pub fn start(mut options: RedisOptions, secrets: &Path) -> Self {
        options.password_file = options.password_file.map(|file| secrets.join(file));
        let (questions, queue) = mpsc::channel(QUEUE);
        let connected = Arc::new(AtomicBool::new(false));
        tokio::spawn(run(options, queue, connected.clone()));
        Self { questions, connected }
    }

    /// True if questions can be asked at the moment.
    pub fn is_connected(&self) -> bool {
        self.connected.load(Relaxed)
    }

    /// Takes one request of `key` out of its bucket in Redis; waits at most `longest`.
    ///
    /// # Errors
    /// [`Unavailable`], at once where there is no connection.
    pub async fn take(&self, key: Vec<u8>, rate: Rate, longest: Duration) -> Result<Verdict, Unavailable> {
        if !self.is_connected() {
            return Err(Unavailable);
        }
        let (answer, answered) = oneshot::channel();
        let cost_us = rate.cost_ns().div_ceil(1000).max(1);
        let depth_us = rate.depth_ns().div_ceil(1000).max(cost_us);
        let question = Question { key, cost_us, depth_us, answer };
        self.questions.try_send(question).map_err(|_| Unavailable)?;
        match timeout(longest, answered).await {
            Ok(Ok(verdict)) => Ok(verdict),
            Ok(Err(_)) | Err(_) => Err(Unavailable),
        }
    }
}

/// Connects again and again until every [`Redis`] is gone.
async fn run(options: RedisOptions, mut queue: mpsc::Receiver<Question>, connected: Arc<AtomicBool>) {
    let address = &options.address;
    // Told once, and again when it is something else.
    let mut why_not = String::new();
    while !queue.is_closed() {
        match timeout(CONNECT_TIMEOUT, connect(&options)).await {
            Ok(Ok((stream, script))) => {
                connected.store(true, Relaxed);
                why_not.clear();
                if let Err(error) = serve(stream, &script, &mut queue).await {
                    tracing::warn!(address, %error, "lost Redis: shared rate limits follow onUnavailable");
                }
                connected.store(false, Relaxed);
            }
            Ok(Err(error)) => {
                let error = error.to_string();
                if error != why_not {
                    tracing::warn!(
                        address,
                        error,
                        "can't connect to Redis: shared rate limits follow onUnavailable"
                    );
                    why_not = error;
                }
            }
            Err(_) => tracing::debug!(address, "Redis doesn't answer"),
        }
        // Whoever asked in between has its answer: none.
        while queue.try_recv().is_ok() {}
        sleep(RECONNECT_AFTER).await;
    }
}

/// A connection that knows the script, with the script's name.
async fn connect(options: &RedisOptions) -> io::Result<(TcpStream, Vec<u8>)> {
    let mut stream = TcpStream::connect(&options.address).await?;
    stream.set_nodelay(true)?;
    let mut bytes = Vec::new();
    if options.username.is_some() || options.password_file.is_some() {
        let password = match &options.password_file {
            Some(file) => password::read(file).await?,
            // Of a user without one any is taken.
            None => Vec::new(),
        };
        let user = options.username.as_deref().map(str::as_bytes);
        let parts = [Some(b"AUTH".as_slice()), user, Some(&password)];
        resp::command(&parts.into_iter().flatten().collect::<Vec<_>>(), &mut bytes);
        stream.write_all(&bytes).await?;
        if !matches!(read(&mut stream).await?, Reply::Text(_)) {
            // What it answers isn't said: it knows the password by now, and may be anybody.
            return Err(io::Error::other("the server refuses the password, or the user"));
        }
        bytes.clear();
    }
    resp::command(&[b"SCRIPT", b"LOAD", SCRIPT.as_bytes()], &mut bytes);
    stream.write_all(&bytes).await?;
    match read(&mut stream).await? {
        Reply::Text(Some(name)) => Ok((stream, name)),
        other => Err(io::Error::other(format!("refused the script: {other:?}"))),
    }
}

/// The one reply that is under way.
async fn read(stream: &mut TcpStream) -> io::Result<Reply> {
    let mut bytes = Vec::new();
    loop {
        if let Some((reply, _)) = resp::reply(&bytes).map_err(io::Error::other)? {
            return Ok(reply);
        }
        if stream.read_buf(&mut bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// Carries questions and answers until the connection or every [`Redis`] is gone.
async fn serve(mut stream: TcpStream, script: &[u8], queue: &mut mpsc::Receiver<Question>) -> io::Result<()> {
    let (mut reader, mut writer) = stream.split();
    let (mut incoming, mut outgoing) = (Vec::new(), Vec::new());
    let mut waiting: VecDeque<oneshot::Sender<Verdict>> = VecDeque::new();
    loop {
        tokio::select! {
            question = queue.recv(), if waiting.len() < QUEUE => {
                let Some(question) = question else { return Ok(()) };
                ask(question, script, &mut outgoing, &mut waiting);
                while let Some(question) = (waiting.len() < QUEUE).then(|| queue.try_recv().ok()).flatten() {
                    ask(question, script, &mut outgoing, &mut waiting);
                }
                timeout(STUCK_AFTER, writer.write_all(&outgoing)).await??;
                outgoing.clear();
            }
            read = timeout(STUCK_AFTER, reader.read_buf(&mut incoming)) => match read {
                Ok(Ok(0)) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(Ok(_)) => answer(&mut incoming, &mut waiting)?,
                Ok(Err(error)) => return Err(error),
                Err(_) if waiting.is_empty() => {}
                Err(late) => return Err(late.into()),
            },
        }
    }
}

fn ask(
    question: Question,
    script: &[u8],
    outgoing: &mut Vec<u8>,
    waiting: &mut VecDeque<oneshot::Sender<Verdict>>,
) {
    let (cost, depth) = (question.cost_us.to_string(), question.depth_us.to_string());
    resp::command(&[b"EVALSHA", script, b"1", &question.key, cost.as_bytes(), depth.as_bytes()], outgoing);
    waiting.push_back(question.answer);
}

/// Hands out the replies that are there, in the order of their questions. An error ends the connection: a restarted Redis
/// doesn't know the script, and the next connection brings it.
fn answer(incoming: &mut Vec<u8>, waiting: &mut VecDeque<oneshot::Sender<Verdict>>) -> io::Result<()> {
    while let Some((reply, length)) = resp::reply(incoming).map_err(io::Error::other)? {
        incoming.drain(..length);
        let verdict = match &reply {
            Reply::Array(parts) => verdict(parts),
            Reply::Text(_) | Reply::Error(_) | Reply::Number(_) => None,
        };
        match (waiting.pop_front(), verdict) {
            // Who no longer waits has gone on without.
            (Some(asker), Some(verdict)) => drop(asker.send(verdict)),
            _ => return Err(io::Error::other(format!("an answer that nobody asked for: {reply:?}"))),
        }
    }
    Ok(())
}

fn verdict(parts: &[Reply]) -> Option<Verdict> {
    let [Reply::Number(passed), Reply::Number(micros)] = parts else { return None };
    let time = Duration::from_micros(u64::try_from(*micros).ok()?);
    Some(match passed {
        0 => Verdict::Limited { retry_after: time },
        // What is left isn't asked for: nothing shows it.
        _ => Verdict::Pass { remaining: 0, reset: time },
    })
}

#[cfg(test)]
mod tests;
