//! Stops every CPU of the guest from outside, so that somebody can look at memory that nobody changes.
//!
//! A CPU's thread is a member from its first entry to its last, under the number of its CPU; where one thread runs several
//! (QEMU's), under that of the first. Between two entries it passes [`Pause::point`], and stands
//! there while somebody has the guest stopped; one that is in the guest is kicked out by a signal. A thread that carries out a
//! hypercall may itself stop the others ([`Pause::stop`] with its own number), and stands still for another who was first.
//!
//! One lock, a leaf: it is not held while a CPU runs, is kicked, or is looked at.

use crate::cpu::{Cpu, CpuState};
use crate::sys::{self, ThreadId};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long a CPU has to leave the guest before it is kicked again; doubled each time, up to [`KICK_AGAIN_MAX`].
const KICK_AGAIN: Duration = Duration::from_millis(1);
const KICK_AGAIN_MAX: Duration = Duration::from_millis(64);

/// What a thread is asked for while it stands still: member, which of its CPUs, and the virtual addresses to translate.
type Question = (u32, u32, Vec<u64>);
/// One answer for each address, or why there is none at all.
type Answer = Result<Vec<Option<u64>>, String>;

#[derive(Default)]
struct State {
    /// Threads that may be in the guest.
    members: BTreeMap<u32, ThreadId>,
    /// Somebody has the guest stopped, or is about to.
    stopped: bool,
    /// Members that stand still, with their registers.
    standing: BTreeMap<u32, Result<Vec<CpuState>, String>>,
    question: Option<Question>,
    answer: Option<Answer>,
    /// The run ends: nobody stands still any more.
    over: bool,
}

/// The place where CPUs stand still.
#[derive(Default)]
pub struct Pause {
    state: Mutex<State>,
    changed: Condvar,
    /// [`State::stopped`], to be read between two entries without the lock.
    wanted: AtomicBool,
}

impl Pause {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the calling thread the one of CPU `index`, until the result is dropped.
    pub fn join(&self, index: u32) -> Member<'_> {
        self.lock().members.insert(index, sys::this_thread());
        Member { pause: self, index }
    }

    /// Does somebody want the guest to stand still?
    pub fn wanted(&self) -> bool {
        self.wanted.load(Ordering::SeqCst)
    }

    /// Stands still as long as somebody has the guest stopped. Called by the thread of CPU `index` while it is outside.
    pub fn point(&self, index: u32, cpu: &dyn Cpu) {
        if self.wanted() {
            drop(self.stand(self.lock(), index, cpu));
        }
    }

    fn stand<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        index: u32,
        cpu: &dyn Cpu,
    ) -> MutexGuard<'a, State> {
        while state.stopped && !state.over {
            state.standing.entry(index).or_insert_with(|| cpu.states());
            if let Some((_, offset, addresses)) = state.question.take_if(|(asked, ..)| *asked == index) {
                state.answer = Some(addresses.iter().map(|va| cpu.translate_on(offset, *va)).collect());
            }
            self.changed.notify_all();
            state = self.wait(state);
        }
        state.standing.remove(&index);
        state
    }

    /// Stops the guest. `own` is the member that calls, which is outside and counts as stopped. `None` when the run ends
    /// meanwhile.
    pub fn stop<'a>(&'a self, own: Option<(u32, &'a dyn Cpu)>) -> Option<Stopped<'a>> {
        let mut state = self.lock();
        while state.stopped && !state.over {
            state = match own {
                Some((index, cpu)) => self.stand(state, index, cpu),
                None => self.wait(state),
            };
        }
        if state.over {
            return None;
        }
        state.stopped = true;
        self.wanted.store(true, Ordering::SeqCst);
        let stopped = Stopped { pause: self, own };
        let mut patience = KICK_AGAIN;
        loop {
            let moving: Vec<ThreadId> = state
                .members
                .iter()
                .filter(|(index, _)| {
                    !state.standing.contains_key(index) && own.is_none_or(|o| o.0 != **index)
                })
                .map(|(_, thread)| *thread)
                .collect();
            if state.over {
                drop(state);
                return None;
            }
            if moving.is_empty() {
                drop(state);
                return Some(stopped);
            }
            moving.iter().for_each(|thread| thread.kick());
            let waited = self.changed.wait_timeout(state, patience);
            let timed_out;
            (state, timed_out) = waited.map_or_else(
                |poisoned| {
                    let (state, result) = poisoned.into_inner();
                    (state, result.timed_out())
                },
                |(state, result)| (state, result.timed_out()),
            );
            if timed_out {
                patience = (patience * 2).min(KICK_AGAIN_MAX);
            }
        }
    }

    /// Lets everybody go for good: the run ends.
    pub fn end(&self) {
        self.lock().over = true;
        self.changed.notify_all();
    }
}

/// A thread that is a CPU's.
pub struct Member<'a> {
    pause: &'a Pause,
    index: u32,
}

impl Drop for Member<'_> {
    fn drop(&mut self) {
        self.pause.lock().members.remove(&self.index);
        self.pause.changed.notify_all();
    }
}

/// The guest stands still while this lives.
pub struct Stopped<'a> {
    pause: &'a Pause,
    own: Option<(u32, &'a dyn Cpu)>,
}

impl Stopped<'_> {
    /// The registers of every CPU.
    ///
    /// # Errors
    /// Why the engine does not give them.
    pub fn cpus(&self) -> Result<Vec<(u32, CpuState)>, String> {
        let own = self.own.map(|(index, cpu)| (index, cpu.states()));
        let standing = self.pause.lock().standing.clone();
        let mut all = Vec::new();
        for (first, states) in own.into_iter().chain(standing) {
            all.extend((first..).zip(states?));
        }
        Ok(all)
    }

    /// The physical addresses behind virtual ones, as CPU `index` translates them now; `None` for those that it does not.
    ///
    /// # Errors
    /// Why the engine cannot say.
    pub fn translate(&self, index: u32, addresses: &[u64]) -> Answer {
        let mut state = self.pause.lock();
        let own = self.own.map(|own| own.0).into_iter();
        // The member that runs it: the last one that does not come behind it.
        let member = own.chain(state.standing.keys().copied()).filter(|first| *first <= index).max();
        let member = member.ok_or_else(|| format!("CPU {index} does not stand still"))?;
        let offset = index - member;
        if let Some((_, cpu)) = self.own.filter(|own| own.0 == member) {
            drop(state);
            return addresses.iter().map(|va| cpu.translate_on(offset, *va)).collect();
        }
        state.answer = None;
        state.question = Some((member, offset, addresses.to_vec()));
        self.pause.changed.notify_all();
        loop {
            if let Some(answer) = state.answer.take() {
                return answer;
            }
            if state.over || !state.standing.contains_key(&member) {
                state.question = None;
                return Err(format!("CPU {index} does not stand still"));
            }
            state = self.pause.wait(state);
        }
    }
}

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        let mut state = self.pause.lock();
        state.stopped = false;
        state.standing.clear();
        self.pause.wanted.store(false, Ordering::SeqCst);
        self.pause.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU64;
    use std::thread;

    /// A CPU that translates by adding its number.
    struct Fake(u64);

    impl Cpu for Fake {
        fn state(&self) -> Result<CpuState, String> {
            let mut state = CpuState::default();
            state.sregs.cr3 = self.0;
            Ok(state)
        }

        fn translate(&self, va: u64) -> Result<Option<u64>, String> {
            Ok((va != 0).then_some(va + self.0))
        }
    }

    #[test]
    fn every_cpu_stands_still_and_answers_until_it_is_let_go() {
        sys::install_kick().unwrap();
        let (pause, count, done) = (Pause::default(), AtomicU64::new(0), AtomicBool::new(false));
        thread::scope(|scope| {
            let (pause, count, done) = (&pause, &count, &done);
            for index in 0..4u32 {
                scope.spawn(move || {
                    let _member = pause.join(index);
                    while !done.load(Ordering::SeqCst) {
                        pause.point(index, &Fake(u64::from(index)));
                        count.fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
            while pause.lock().members.len() < 4 {
                thread::yield_now();
            }
            for _ in 0..50 {
                let stopped = pause.stop(None).unwrap();
                let before = count.load(Ordering::SeqCst);
                let cpus = stopped.cpus().unwrap();
                assert_eq!(cpus.iter().map(|(_, s)| s.sregs.cr3).collect::<Vec<_>>(), [0, 1, 2, 3]);
                assert_eq!(stopped.translate(3, &[0, 5]), Ok(vec![None, Some(8)]));
                assert_eq!(count.load(Ordering::SeqCst), before, "a CPU ran while all were stopped");
                drop(stopped);
            }
            done.store(true, Ordering::SeqCst);
        });
        // Members that have left are not waited for.
        assert!(pause.stop(None).unwrap().cpus().unwrap().is_empty());
    }

    #[test]
    fn cpus_that_stop_each_other_take_turns() {
        sys::install_kick().unwrap();
        let (pause, inside) = (Pause::default(), AtomicU64::new(0));
        thread::scope(|scope| {
            for index in 0..3u32 {
                let (pause, inside) = (&pause, &inside);
                scope.spawn(move || {
                    let cpu = Fake(u64::from(index));
                    let _member = pause.join(index);
                    for _ in 0..100 {
                        let stopped = pause.stop(Some((index, &cpu))).unwrap();
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                        assert_eq!(stopped.translate(index, &[7]), Ok(vec![Some(7 + cpu.0)]));
                        inside.fetch_sub(1, Ordering::SeqCst);
                        drop(stopped);
                        pause.point(index, &cpu);
                    }
                });
            }
        });
    }

    #[test]
    fn the_end_of_the_run_lets_everybody_go() {
        sys::install_kick().unwrap();
        let pause = Pause::default();
        thread::scope(|scope| {
            let stopped = pause.stop(None).unwrap();
            let waiting = scope.spawn(|| pause.stop(None).is_none());
            pause.end();
            assert!(waiting.join().unwrap());
            drop(stopped);
        });
        assert!(pause.stop(None).is_none());
        pause.point(0, &Fake(0));
    }
}
