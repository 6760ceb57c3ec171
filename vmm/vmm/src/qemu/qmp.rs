//! The QEMU Machine Protocol, as far as it is needed: one JSON object a line, a greeting, commands with one answer each,
//! events in between (QEMU docs/interop/qmp-spec).

use crate::sys::{self, Want};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

/// Longest wait for the answer to a command.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);
/// Read at once, bytes.
const CHUNK: usize = 16 << 10;

/// Why QEMU cannot be talked to.
#[derive(Debug, thiserror::Error)]
pub enum QmpError {
    /// It closed its end.
    #[error("QEMU has gone")]
    Gone,
    /// It does not answer.
    #[error("QEMU does not answer `{0}`")]
    Silent(String),
    /// It refuses a command.
    #[error("QEMU refuses `{command}`: {why}")]
    Refused {
        /// The command.
        command: String,
        /// Its words.
        why: String,
    },
    /// It says what makes no sense.
    #[error("QEMU says what makes no sense: {0}")]
    Nonsense(String),
    /// The host refuses.
    #[error("talking to QEMU: {0}")]
    Host(#[from] io::Error),
}

/// An event: its name and data.
#[derive(Clone, PartialEq, Debug)]
pub struct Event {
    /// Such as `STOP`.
    pub name: String,
    /// Its data, or null.
    pub data: Value,
}

/// One line from QEMU.
#[derive(Clone, PartialEq, Debug)]
enum Message {
    Greeting,
    Return(Value),
    Error(String),
    Event(Event),
}

fn parse(line: &[u8]) -> Result<Message, QmpError> {
    let nonsense = || QmpError::Nonsense(String::from_utf8_lossy(line).trim_end().to_owned());
    let mut value: Value = serde_json::from_slice(line).map_err(|_| nonsense())?;
    let object = value.as_object_mut().ok_or_else(nonsense)?;
    if object.contains_key("QMP") {
        return Ok(Message::Greeting);
    }
    if let Some(result) = object.remove("return") {
        return Ok(Message::Return(result));
    }
    if let Some(error) = object.get("error") {
        let text = error.get("desc").and_then(Value::as_str).ok_or_else(nonsense)?;
        return Ok(Message::Error(text.to_owned()));
    }
    let name = object.get("event").and_then(Value::as_str).ok_or_else(nonsense)?.to_owned();
    Ok(Message::Event(Event { name, data: object.remove("data").unwrap_or_default() }))
}

/// What ended a wait for an event.
#[derive(Debug)]
pub enum Wake {
    /// An event.
    Event(Event),
    /// The other descriptor is ready, a signal came, or the time is over.
    Other,
}

/// A connection.
pub struct Client {
    from: File,
    to: File,
    /// Bytes that are not a whole line yet, and lines that nobody has looked at.
    buffer: Vec<u8>,
    events: VecDeque<Event>,
}

impl Client {
    /// A connection over these streams.
    pub fn new(from: File, to: File) -> Client {
        Client { from, to, buffer: Vec::new(), events: VecDeque::new() }
    }

    /// Waits for the greeting and leaves negotiation mode.
    ///
    /// # Errors
    /// [`QmpError`].
    pub fn greet(&mut self, limit: Duration) -> Result<(), QmpError> {
        let deadline = Instant::now() + limit;
        loop {
            match self.line()? {
                Some(line) => match parse(&line)? {
                    Message::Greeting => break,
                    _ => return Err(QmpError::Nonsense(String::from_utf8_lossy(&line).into_owned())),
                },
                None => self.fill(deadline, "the greeting")?,
            }
        }
        self.command("qmp_capabilities", None).map(|_| ())
    }

    /// Carries out a command and gives its result; events that come meanwhile are kept.
    ///
    /// # Errors
    /// [`QmpError`].
    pub fn command(&mut self, name: &str, arguments: Option<Value>) -> Result<Value, QmpError> {
        let mut request = json!({ "execute": name });
        if let Some(arguments) = arguments {
            request["arguments"] = arguments;
        }
        self.to.write_all(format!("{request}\n").as_bytes()).map_err(|e| match e.kind() {
            io::ErrorKind::BrokenPipe => QmpError::Gone,
            _ => QmpError::Host(e),
        })?;
        let deadline = Instant::now() + ANSWER_LIMIT;
        loop {
            let Some(line) = self.line()? else {
                self.fill(deadline, name)?;
                continue;
            };
            match parse(&line)? {
                Message::Return(value) => return Ok(value),
                Message::Error(why) => return Err(QmpError::Refused { command: name.to_owned(), why }),
                Message::Event(event) => self.events.push_back(event),
                Message::Greeting => return Err(QmpError::Nonsense("a second greeting".into())),
            }
        }
    }

    /// A command of the human monitor, about this CPU; gives its text.
    ///
    /// # Errors
    /// [`QmpError`].
    pub fn monitor(&mut self, cpu: u32, line: &str) -> Result<String, QmpError> {
        let arguments = json!({ "command-line": line, "cpu-index": cpu });
        match self.command("human-monitor-command", Some(arguments))? {
            Value::String(text) => Ok(text),
            other => Err(QmpError::Nonsense(other.to_string())),
        }
    }

    /// Waits for an event, or until `other` is ready, a signal comes, or `timeout` is over.
    ///
    /// # Errors
    /// [`QmpError`].
    pub fn event(&mut self, other: BorrowedFd<'_>, timeout: Option<Duration>) -> Result<Wake, QmpError> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(Wake::Event(event));
            }
            if let Some(line) = self.line()? {
                match parse(&line)? {
                    Message::Event(event) => return Ok(Wake::Event(event)),
                    _ => return Err(QmpError::Nonsense(String::from_utf8_lossy(&line).into_owned())),
                }
            }
            let ready = sys::poll(&[(self.from.as_fd(), Want::Read), (other, Want::Read)], timeout)?;
            if !ready[0] || ready[1] {
                return Ok(Wake::Other);
            }
            self.read()?;
        }
    }

    /// The next whole line that has arrived.
    fn line(&mut self) -> Result<Option<Vec<u8>>, QmpError> {
        loop {
            let Some(end) = self.buffer.iter().position(|&b| b == b'\n') else { return Ok(None) };
            let line: Vec<u8> = self.buffer.drain(..=end).collect();
            if !line.trim_ascii().is_empty() {
                return Ok(Some(line));
            }
        }
    }

    fn fill(&mut self, deadline: Instant, what: &str) -> Result<(), QmpError> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(QmpError::Silent(what.to_owned()));
        }
        if sys::poll(&[(self.from.as_fd(), Want::Read)], Some(left))?[0] {
            self.read()?;
        }
        Ok(())
    }

    fn read(&mut self) -> Result<(), QmpError> {
        let mut chunk = [0; CHUNK];
        match self.from.read(&mut chunk) {
            Ok(0) => Err(QmpError::Gone),
            Ok(n) => {
                self.buffer.extend_from_slice(&chunk[..n]);
                Ok(())
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(e) => Err(e.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;
    use vmm_sys_util::eventfd::EventFd;

    /// A client, and QEMU's end of its connection.
    fn pair() -> (Client, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let file = || File::from(OwnedFd::from(ours.try_clone().unwrap()));
        (Client::new(file(), file()), theirs)
    }

    #[test]
    fn lines_are_told_apart() {
        let greeting = br#"{"QMP": {"version": {"qemu": {"major": 7}}, "capabilities": ["oob"]}}"#;
        assert_eq!(parse(greeting).unwrap(), Message::Greeting);
        assert_eq!(parse(br#"{"return": {"a": 1}}"#).unwrap(), Message::Return(json!({ "a": 1 })));
        let refused = br#"{"error": {"class": "CommandNotFound", "desc": "no such command"}}"#;
        assert_eq!(parse(refused).unwrap(), Message::Error("no such command".into()));
        let event = br#"{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "SHUTDOWN", "data": {"guest": true}}"#;
        let data = json!({ "guest": true });
        assert_eq!(parse(event).unwrap(), Message::Event(Event { name: "SHUTDOWN".into(), data }));
        for bad in [&b"{}"[..], b"[]", b"{\"error\": 1}", b"warning: x", b"\xff"] {
            assert!(matches!(parse(bad), Err(QmpError::Nonsense(_))), "{bad:?}");
        }
    }

    #[test]
    fn answers_are_found_among_events() {
        let (mut client, mut qemu) = pair();
        qemu.write_all(b"{\"QMP\": {}}\r\n{\"return\": {}}\r\n").unwrap();
        client.greet(Duration::from_secs(5)).unwrap();
        qemu.write_all(b"{\"event\": \"STOP\"}\r\n{\"return\": \"text\"}\n{\"event\": \"RESUME\"}\n")
            .unwrap();
        assert_eq!(client.monitor(1, "info registers").unwrap(), "text");
        let never = EventFd::new(0).unwrap();
        for name in ["STOP", "RESUME"] {
            match client.event(sys::event_fd(&never), None).unwrap() {
                Wake::Event(event) => assert_eq!(event.name, name),
                Wake::Other => panic!("woken without {name}"),
            }
        }
        let mut sent = [0; 200];
        let n = qemu.read(&mut sent).unwrap();
        let sent = String::from_utf8_lossy(&sent[..n]).into_owned();
        assert!(sent.starts_with("{\"execute\":\"qmp_capabilities\"}\n"), "{sent}");
        assert!(sent.contains("\"command-line\":\"info registers\""), "{sent}");
    }

    #[test]
    fn a_wait_ends_without_an_event() {
        let (mut client, qemu) = pair();
        let stop = EventFd::new(0).unwrap();
        let short = Some(Duration::from_millis(5));
        assert!(matches!(client.event(sys::event_fd(&stop), short).unwrap(), Wake::Other));
        stop.write(1).unwrap();
        assert!(matches!(client.event(sys::event_fd(&stop), None).unwrap(), Wake::Other));
        drop(qemu);
        assert!(matches!(client.command("cont", None), Err(QmpError::Gone)));
    }

    #[test]
    fn a_refusal_names_the_command() {
        let (mut client, mut qemu) = pair();
        qemu.write_all(b"{\"error\": {\"class\": \"GenericError\", \"desc\": \"not now\"}}\n").unwrap();
        assert_eq!(client.command("cont", None).unwrap_err().to_string(), "QEMU refuses `cont`: not now");
    }
}
