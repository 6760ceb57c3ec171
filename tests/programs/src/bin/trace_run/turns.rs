//! Whose turn it is. The process whose turn it is carries out the next operation if that is its own, and passes the turn
//! on through the pipe of the process whose operation it is. A process that leaves passes the turn to its parent, which
//! waits for it before anything else happens, or to the supervisor if the parent is gone.

use crate::control::Control;
use crate::final_state;
use ptshare_programs::{check, process};
use ptshare_trace::watch::Watch;
use ptshare_trace::{Call, Op, PROCS, SLOTS, Trace};
use std::sync::atomic::Ordering::SeqCst;

/// A pipe for each process, and one for the supervisor.
pub struct Gates([[i32; 2]; PROCS + 1]);

impl Gates {
    /// New pipes.
    pub fn new() -> Gates {
        let mut pipes = [[0; 2]; PROCS + 1];
        for pipe in &mut pipes {
            // SAFETY: `pipe` has room for two descriptors.
            check!(unsafe { libc::pipe(pipe.as_mut_ptr()) } == 0, "no pipes");
        }
        Gates(pipes)
    }

    /// Closes them.
    pub fn close(&self) {
        // SAFETY: the descriptors are this value's own.
        self.0.iter().flatten().for_each(|&fd| unsafe {
            libc::close(fd);
        });
    }

    /// Gives a process the turn.
    fn pass(&self, to: usize) {
        // SAFETY: the byte is readable.
        let n = unsafe { libc::write(self.0[to][1], [1_u8].as_ptr().cast(), 1) };
        check!(n == 1, "the turn cannot be passed");
    }

    /// Waits for the turn.
    fn wait(&self, me: usize) {
        let mut byte = [0_u8];
        // SAFETY: the byte is writable.
        let n = unsafe { libc::read(self.0[me][0], byte.as_mut_ptr().cast(), 1) };
        check!(n == 1, "the turn cannot be taken");
    }

    /// Waits for the turn; false when that takes too long.
    fn wait_until(&self, me: usize, deadline_ms: i32) -> bool {
        let mut poll = libc::pollfd { fd: self.0[me][0], events: libc::POLLIN, revents: 0 };
        // SAFETY: `poll` is one live pollfd.
        if unsafe { libc::poll(&mut poll, 1, deadline_ms) } != 1 {
            return false;
        }
        self.wait(me);
        true
    }
}

/// How a trace ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    /// By itself.
    Done,
    /// Somebody kept the turn for too long, or was killed while having it.
    Late,
}

/// One process of a trace, or its supervisor.
pub struct Machine<'a> {
    /// The trace, with its endings.
    pub trace: &'a Trace,
    /// What to compare at the end.
    pub watched: &'a Watch,
    /// See there.
    pub control: &'static Control,
    /// Address of shared memory that calls read into.
    pub scratch: u64,
    /// See there.
    pub gates: &'a Gates,
    /// The number of this process; [`PROCS`] for the supervisor.
    pub me: usize,
    /// Where the heap begins that belongs to the trace.
    pub heap: u64,
    /// Address and length of what the kernel placed; (0, 0) for nothing.
    pub handles: [(u64, u64); SLOTS],
    /// Descriptors.
    pub fds: [i32; SLOTS],
    /// Segments.
    pub segments: [i32; SLOTS],
    /// The trace's pipe.
    pub pipe: [i32; 2],
}

impl Machine<'_> {
    /// The supervisor's part: starts process 0 and waits until all is over.
    pub fn supervise(&mut self, deadline_ms: i32) -> Ended {
        let control = self.control;
        let root = self.fork(0) as i32;
        if root < 0 {
            return Ended::Late;
        }
        // The child does the same; whoever is first.
        // SAFETY: no pointer.
        unsafe { libc::setpgid(root, root) };
        let ended = loop {
            self.reap_leaver();
            let Some(next) = self.next() else { break Ended::Done };
            self.gates.pass(usize::from(next.proc));
            if !self.gates.wait_until(PROCS, deadline_ms) {
                break Ended::Late;
            }
        };
        // SAFETY: no pointer; the status may be NULL.
        unsafe {
            if control.living() > 0 || ended == Ended::Late {
                libc::kill(-root, libc::SIGKILL);
            }
            while libc::waitpid(-1, std::ptr::null_mut(), 0) > 0 || ptshare_programs::errno() == libc::EINTR {
            }
        }
        ended
    }

    /// The next operation whose process is there; records of the others stay empty.
    fn next(&self) -> Option<Op> {
        loop {
            let op = *self.trace.ops.get(self.control.pc.load(SeqCst))?;
            if self.control.alive[usize::from(op.proc)].load(SeqCst) {
                return Some(op);
            }
            self.control.pc.fetch_add(1, SeqCst);
        }
    }

    /// The life of a process of the trace, from its first turn on.
    fn live(&mut self) -> ! {
        self.gates.wait(self.me);
        loop {
            self.reap_leaver();
            match self.next() {
                Some(op) if usize::from(op.proc) == self.me => self.step(&op),
                Some(op) => {
                    self.gates.pass(usize::from(op.proc));
                    self.gates.wait(self.me);
                }
                None => {
                    self.gates.pass(PROCS);
                    self.gates.wait(self.me);
                }
            }
        }
    }

    fn step(&mut self, op: &Op) {
        let at = self.control.pc.fetch_add(1, SeqCst);
        if op.call == Call::Exit {
            self.leave(at, op.args[0] as i32);
        }
        let Some(record) = self.control.records.get(at) else { return };
        match self.carry_out(op, record) {
            Some(result) => {
                record.result.store(result as u64, SeqCst);
                record.state.store(1, SeqCst);
            }
            None => record.state.store(2, SeqCst),
        }
    }

    /// Forks process `child`, which lives until its exit. Its PID, or the negative error number.
    pub fn fork(&mut self, child: usize) -> i64 {
        let control = self.control;
        // SAFETY: one thread; what the child runs needs no lock and no allocation.
        let pid = unsafe { libc::syscall(libc::SYS_fork) };
        if pid == 0 {
            if self.me == PROCS {
                // SAFETY: no pointer.
                unsafe { libc::setpgid(0, 0) };
            }
            self.me = child;
            self.live();
        }
        if pid < 0 {
            return -i64::from(ptshare_programs::errno());
        }
        control.pid[child].store(pid as i32, SeqCst);
        control.parent[child].store(self.me, SeqCst);
        control.used[child].store(true, SeqCst);
        control.alive[child].store(true, SeqCst);
        pid
    }

    fn leave(&mut self, at: usize, status: i32) -> ! {
        let control = self.control;
        final_state::record(self);
        control.records[at].state.store(1, SeqCst);
        control.alive[self.me].store(false, SeqCst);
        let parent = control.parent[self.me].load(SeqCst);
        let waits = parent == PROCS || control.alive[parent].load(SeqCst);
        if waits {
            control.left_by.store(at, SeqCst);
            control.leaver.store(control.pid[self.me].load(SeqCst), SeqCst);
        }
        self.gates.pass(if waits { parent } else { PROCS });
        process::leave(status)
    }

    /// Waits for the process that has just left, if it is for this one to do.
    fn reap_leaver(&mut self) {
        let pid = self.control.leaver.swap(0, SeqCst);
        if pid != 0 {
            let status = self.wait_for(pid);
            self.control.records[self.control.left_by.load(SeqCst)].extra.store(status, SeqCst);
        }
    }

    /// Its wait status, or a number that none has when wait4(2) fails.
    pub fn wait_for(&self, pid: i32) -> u64 {
        let mut status = 0;
        loop {
            // SAFETY: `status` is a live i32.
            let result = unsafe { libc::waitpid(pid, &mut status, 0) };
            match ptshare_programs::errno() {
                _ if result == pid => return status as u32 as u64,
                libc::EINTR => {}
                error => return (1 << 32) | error as u64,
            }
        }
    }
}
