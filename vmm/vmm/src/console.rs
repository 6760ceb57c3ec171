//! The guest's console on the host side: a bounded queue of input that a reader thread fills, and two output streams.
//!
//! Locks: [`Console::input`] and [`Console::captured`] are leaves; neither is held while the other is taken, nor while
//! bytes are read from or written to a descriptor.

use crate::config;
use crate::sys::{self, Want};
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::AsFd;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use vmm_sys_util::eventfd::EventFd;

/// Input that waits for the guest at most, bytes.
const INPUT_MAX: usize = 64 << 10;
/// Written at once at most: what a pipe that polls as writable takes without blocking (PIPE_BUF, pipe(7)).
const CHUNK: usize = 4096;
/// Ctrl-]: ends the run when typed at a terminal.
const QUIT_KEY: u8 = 0x1d;

/// What waits for the guest.
#[derive(Default)]
struct Input {
    bytes: VecDeque<u8>,
    eof: bool,
    closing: bool,
}

/// The host's streams, when they are used.
struct Host {
    stdin_is_tty: bool,
    out: [File; 2],
}

/// The console.
pub struct Console {
    input: Mutex<Input>,
    room: Condvar,
    captured: Mutex<[Vec<u8>; 2]>,
    host: Option<Host>,
}

/// Why a write did not finish.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WriteEnd {
    /// The run is being stopped.
    Stopped,
    /// The reader went away, or the descriptor is broken.
    Closed,
}

/// What the reader thread saw.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReaderEnd {
    /// The end of the input, or the stop.
    Done,
    /// [`QUIT_KEY`].
    Quit,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Console {
    /// The console that the configuration asks for.
    ///
    /// # Errors
    /// When the host's stdout or stderr is closed.
    pub fn new(config: &config::Console) -> io::Result<Console> {
        let mut input = Input::default();
        let host = match config {
            config::Console::Inherit => {
                let dup = |fd: io::Result<std::os::fd::OwnedFd>| fd.map(File::from);
                Some(Host {
                    stdin_is_tty: io::stdin().is_terminal(),
                    out: [
                        dup(io::stdout().as_fd().try_clone_to_owned())?,
                        dup(io::stderr().as_fd().try_clone_to_owned())?,
                    ],
                })
            }
            config::Console::Captured { stdin } => {
                input.bytes.extend(stdin);
                input.eof = true;
                None
            }
        };
        Ok(Console { input: Mutex::new(input), room: Condvar::new(), captured: Mutex::default(), host })
    }

    /// Whether stdin, stdout and stderr are terminals.
    pub fn terminals(&self) -> [bool; 3] {
        self.host
            .as_ref()
            .map_or([false; 3], |h| [h.stdin_is_tty, h.out[0].is_terminal(), h.out[1].is_terminal()])
    }

    /// Rows and columns of the first terminal among the streams.
    pub fn window(&self) -> (u16, u16) {
        match &self.host {
            Some(host) => {
                let sizes = [sys::window_size(&host.out[0]), sys::window_size(io::stdin())];
                sizes.into_iter().find(|s| *s != (0, 0)).unwrap_or((0, 0))
            }
            None => (0, 0),
        }
    }

    /// Whether the host's streams are used.
    pub fn is_host(&self) -> bool {
        self.host.is_some()
    }

    /// Takes up to `max` bytes of waiting input. `None` at the end of the input.
    pub fn take(&self, max: usize) -> Option<Vec<u8>> {
        let mut input = lock(&self.input);
        if input.bytes.is_empty() && input.eof {
            return None;
        }
        let n = max.min(input.bytes.len());
        let bytes = input.bytes.drain(..n).collect();
        self.room.notify_one();
        Some(bytes)
    }

    /// Whether a read by the guest would give something: bytes, or the end.
    pub fn ready(&self) -> bool {
        let input = lock(&self.input);
        input.eof || !input.bytes.is_empty()
    }

    /// Writes everything to stdout (stream 1) or stderr (any other), waiting for a slow reader until `stop` is readable.
    ///
    /// # Errors
    /// [`WriteEnd`].
    pub fn write(&self, stream: u64, bytes: &[u8], stop: &EventFd) -> Result<(), WriteEnd> {
        let index = usize::from(stream != 1);
        match &self.host {
            None => {
                lock(&self.captured)[index].extend_from_slice(bytes);
                Ok(())
            }
            Some(host) => write_all(&host.out[index], bytes, stop),
        }
    }

    /// What was captured so far: stdout and stderr. Empties the buffers.
    pub fn captured(&self) -> [Vec<u8>; 2] {
        std::mem::take(&mut *lock(&self.captured))
    }

    /// The reader thread: moves the host's stdin into the queue, calling `raise` after each piece and at the end, until
    /// the input ends or `stop` is readable.
    pub fn read_host(&self, stop: &EventFd, raise: impl Fn()) -> ReaderEnd {
        let Some(host) = &self.host else { return ReaderEnd::Done };
        let Ok(stdin) = io::stdin().as_fd().try_clone_to_owned() else {
            lock(&self.input).eof = true;
            raise();
            return ReaderEnd::Done;
        };
        let mut stdin = File::from(stdin);
        let mut buffer = [0; CHUNK];
        loop {
            match sys::poll(&[(sys::event_fd(stop), Want::Read), (stdin.as_fd(), Want::Read)], None) {
                Ok(ready) if ready[0] => return ReaderEnd::Done,
                Ok(ready) if !ready[1] => continue,
                _ => {}
            }
            let n = match stdin.read(&mut buffer) {
                Err(e) if matches!(e.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => {
                    continue;
                }
                Ok(n) => n,
                Err(_) => 0,
            };
            if n == 0 {
                lock(&self.input).eof = true;
                raise();
                return ReaderEnd::Done;
            }
            if host.stdin_is_tty && buffer[..n].contains(&QUIT_KEY) {
                return ReaderEnd::Quit;
            }
            let mut input = lock(&self.input);
            while input.bytes.len() >= INPUT_MAX && !input.closing {
                input = self.room.wait(input).unwrap_or_else(PoisonError::into_inner);
            }
            if input.closing {
                return ReaderEnd::Done;
            }
            input.bytes.extend(&buffer[..n]);
            drop(input);
            raise();
        }
    }

    /// Lets a reader thread that waits for room go.
    pub fn close(&self) {
        lock(&self.input).closing = true;
        self.room.notify_all();
    }
}

fn write_all(mut out: &File, mut bytes: &[u8], stop: &EventFd) -> Result<(), WriteEnd> {
    while !bytes.is_empty() {
        match sys::poll(&[(sys::event_fd(stop), Want::Read), (out.as_fd(), Want::Write)], None) {
            Ok(ready) if ready[0] => return Err(WriteEnd::Stopped),
            Ok(ready) if !ready[1] => continue,
            Ok(_) => {}
            Err(_) => return Err(WriteEnd::Closed),
        }
        match out.write(&bytes[..bytes.len().min(CHUNK)]) {
            Ok(n) => bytes = &bytes[n..],
            Err(e) if matches!(e.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => {}
            Err(_) => return Err(WriteEnd::Closed),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn captured(stdin: &[u8]) -> Console {
        Console::new(&config::Console::Captured { stdin: stdin.to_vec() }).unwrap()
    }

    #[test]
    fn captured_input_ends_after_its_last_byte() {
        let console = captured(b"abc");
        assert!(console.ready());
        assert_eq!(console.take(2), Some(b"ab".to_vec()));
        assert_eq!(console.take(2), Some(b"c".to_vec()));
        assert_eq!(console.take(2), None);
        assert!(console.ready());
    }

    #[test]
    fn captured_output_is_kept_by_stream() {
        let console = captured(b"");
        let stop = EventFd::new(0).unwrap();
        console.write(1, b"out", &stop).unwrap();
        console.write(2, b"err", &stop).unwrap();
        console.write(1, b"put", &stop).unwrap();
        assert_eq!(console.captured(), [b"output".to_vec(), b"err".to_vec()]);
    }

    #[test]
    fn a_stop_frees_a_writer_whose_reader_is_stuck() {
        let (reader, writer) = io::pipe().unwrap();
        let out = File::from(std::os::fd::OwnedFd::from(writer));
        let stop = EventFd::new(0).unwrap();
        let waiter = std::thread::scope(|scope| {
            let thread = scope.spawn(|| write_all(&out, &[7; 1 << 20], &stop));
            std::thread::sleep(std::time::Duration::from_millis(20));
            stop.write(1).unwrap();
            thread.join().unwrap()
        });
        assert_eq!(waiter, Err(WriteEnd::Stopped));
        drop(reader);
        assert_eq!(write_all(&out, b"x", &EventFd::new(0).unwrap()), Err(WriteEnd::Closed));
    }
}
