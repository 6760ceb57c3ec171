//! Reads the job list and runs it.

use crate::sys::{self, CStr};
use crate::text::{self, Line};
use core::ptr;

/// How the jobs are run; the first string of the job list names it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// `single`: one job on the host's stdin; its status is the run's.
    Single,
    /// `batch`: each job is reported to `/dev/ptshare`, starts in the directory `/tmp/NAME` (the name up to a dot; jobs `a.1`
    /// and `a.2` share one) with `/dev/null` as stdin, and lines that begin with a byte 1 mark its beginning and its end on stdout and stderr, so that the host can tell
    /// outputs apart.
    Batch,
}

/// Strings of a file, with their NULs.
#[derive(Clone, Copy)]
struct Strings {
    rest: &'static [u8],
}

impl Iterator for Strings {
    type Item = &'static [u8];

    fn next(&mut self) -> Option<&'static [u8]> {
        let end = self.rest.iter().position(|&b| b == 0)? + 1;
        let (string, rest) = self.rest.split_at_checked(end)?;
        self.rest = rest;
        Some(string)
    }
}

/// A NULL-terminated vector of pointers to strings.
struct Vector(&'static mut [u8]);

impl Vector {
    /// Room for `count` strings.
    fn new(count: usize) -> Result<Self, i32> {
        sys::memory((count + 1) * size_of::<*const u8>()).map(Vector)
    }

    /// Stores a string's address as element `at`; the elements after it are NULL as long as nobody stores there.
    fn set(&mut self, at: usize, string: Option<CStr<'_>>) {
        let address = string.map_or(ptr::null(), CStr::ptr) as usize;
        let size = size_of::<usize>();
        if let Some(place) = self.0.get_mut(at * size..(at + 1) * size) {
            place.copy_from_slice(&address.to_ne_bytes());
        }
    }

    fn ptr(&self) -> *const *const u8 {
        self.0.as_ptr().cast()
    }
}

fn path(bytes: &'static [u8]) -> CStr<'static> {
    CStr::new(bytes).unwrap_or_else(|| CStr::new(b"/\0").expect("it ends in NUL"))
}

/// A whole file in fresh memory.
fn read_file(name: CStr<'_>) -> Result<Strings, i32> {
    let fd = sys::open(name, sys::O_RDONLY)?;
    let size = sys::size(fd)?;
    let bytes = sys::memory(size)?;
    let mut len = 0;
    while let Some(rest) = bytes.get_mut(len..size).filter(|rest| !rest.is_empty()) {
        match sys::read(fd, rest)? {
            0 => break,
            n => len += n,
        }
    }
    sys::close(fd);
    Ok(Strings { rest: bytes.get(..len).unwrap_or(&[]) })
}

fn connect(name: CStr<'_>, flags: i32, to: i32) {
    if let Ok(fd) = sys::open(name, flags)
        && fd != to
    {
        sys::dup2(fd, to);
        if fd > 2 {
            sys::close(fd);
        }
    }
}

fn number(digits: &[u8]) -> Option<usize> {
    digits.iter().try_fold(0usize, |n, d| {
        d.is_ascii_digit().then(|| n.checked_mul(10)?.checked_add(usize::from(d - b'0'))).flatten()
    })
}

fn trimmed(string: &[u8]) -> &[u8] {
    string.strip_suffix(b"\0").unwrap_or(string)
}

/// Runs all jobs; the status to exit with.
pub fn run() -> i32 {
    connect(path(b"/dev/hostin\0"), sys::O_RDONLY, 0);
    connect(path(b"/dev/hostout\0"), sys::O_WRONLY, 1);
    connect(path(b"/dev/hosterr\0"), sys::O_WRONLY, 2);
    match read_file(path(b"/etc/ptshare/jobs\0")).and_then(run_list) {
        Ok(status) => status,
        Err(errno) => {
            let mut line = Line::new();
            line.text(b"ptshare: init: /etc/ptshare/jobs: ").text(text::of_errno(errno)).text(b"\n").send(2);
            125
        }
    }
}

fn run_list(mut jobs: Strings) -> Result<i32, i32> {
    let mode = match jobs.next().map(trimmed) {
        Some(b"single") => Mode::Single,
        Some(b"batch") => Mode::Batch,
        _ => return Err(22),
    };
    let variables = read_file(path(b"/etc/ptshare/env\0")).unwrap_or(Strings { rest: &[] });
    let mut environment = Vector::new(variables.count())?;
    for (at, variable) in variables.enumerate() {
        environment.set(at, CStr::new(variable));
    }
    if mode == Mode::Single
        && let Some(Err(errno)) = read_file(path(b"/etc/ptshare/cwd\0"))
            .ok()
            .and_then(|mut f| f.next())
            .and_then(CStr::new)
            .map(sys::chdir)
    {
        let mut line = Line::new();
        line.text(b"ptshare: the working directory: ").text(text::of_errno(errno)).text(b"\n").send(2);
    }
    if mode == Mode::Batch {
        connect(path(b"/dev/null\0"), sys::O_RDONLY, 0);
    }
    // Absent outside of ptshare: then nothing is reported.
    let judge = sys::open(path(b"/dev/ptshare\0"), sys::O_WRONLY).unwrap_or(-1);
    let mut arguments = Vector::new(jobs.count())?;
    let mut all_status = 0;
    while let Some(name) = jobs.next() {
        let argc = jobs.next().and_then(|text| number(trimmed(text))).ok_or(22)?;
        let mut program = None;
        for at in 0..argc {
            let argument = jobs.next().and_then(CStr::new).ok_or(22)?;
            arguments.set(at, Some(argument));
            program = program.or(Some(argument));
        }
        arguments.set(argc, None);
        let Some(program) = program else { return Err(22) };
        let status = run_job(mode, judge, name, program, &arguments, &environment)?;
        match mode {
            Mode::Single if status & 0x7f == 0 => all_status = (status >> 8) & 0xff,
            Mode::Single => all_status = 128 + (status & 0x7f),
            _ if status != 0 => all_status = 1,
            _ => {}
        }
    }
    Ok(all_status)
}

/// Runs one job to its end and clears away what it left; its wait status.
fn run_job(
    mode: Mode,
    judge: i32,
    name: &'static [u8],
    program: CStr<'_>,
    argv: &Vector,
    envp: &Vector,
) -> Result<i32, i32> {
    let label = trimmed(name);
    if mode == Mode::Batch {
        // The directory first: what it costs the kernel is no part of the scenario.
        enter_directory(label);
        Line::new().text(b"scenario ").text(label).text(b"\n").send(judge);
        for stream in [1, 2] {
            Line::new().text(b"\x01begin ").text(label).text(b"\n").send(stream);
        }
    }
    let terminal = mode == Mode::Single && sys::is_terminal(0);
    let child = sys::fork()?;
    if child == 0 {
        become_job(terminal, judge, program, argv, envp);
    }
    let mut status = 0;
    loop {
        match sys::wait() {
            Ok((pid, how)) if pid == child => {
                status = how;
                break;
            }
            Ok(_) | Err(sys::EINTR) => {}
            Err(_) => break,
        }
    }
    sys::kill_all(sys::SIGKILL);
    while sys::wait() != Err(sys::ECHILD) {}
    if mode == Mode::Batch {
        for stream in [1, 2] {
            Line::new().text(b"\x01end ").text(label).text(b"\n").send(stream);
        }
        let mut line = Line::new();
        line.text(b"result ").text(label).text(b" ").number(status as u32 as u64).text(b"\n").send(judge);
    }
    Ok(status)
}

fn enter_directory(label: &[u8]) {
    let mut name = [0u8; 128];
    let prefix = b"/tmp/";
    let label = label.split(|&b| b == b'.').next().unwrap_or(label);
    for (place, &byte) in name.iter_mut().zip(prefix.iter().chain(label.iter().take(100))) {
        *place = byte;
    }
    let len = prefix.len() + label.len().min(100) + 1;
    if let Some(name) = name.get(..len).and_then(CStr::new) {
        let _ = sys::mkdir(name, 0o755);
        let _ = sys::chdir(name);
    }
}

/// The child's side of [`run_job`].
fn become_job(terminal: bool, judge: i32, program: CStr<'_>, argv: &Vector, envp: &Vector) -> ! {
    if terminal {
        sys::take_terminal(0);
    } else {
        sys::own_group();
    }
    if judge >= 0 {
        sys::close(judge);
    }
    // SAFETY: both vectors end in NULL and hold NUL-terminated strings of files that stay in memory.
    let errno = unsafe { sys::execve(program, argv.ptr(), envp.ptr()) };
    let mut line = Line::new();
    line.text(b"ptshare: cannot run ").text(trimmed(program.bytes())).text(b": ").text(text::of_errno(errno));
    line.text(b" (").number(errno.unsigned_abs().into()).text(b")\n").send(2);
    sys::exit_group(if errno == 2 { 127 } else { 126 })
}
