//! Several CPUs: starting them, interrupting them, and flushes that reach all that need them.
//!
//! A CPU in the kernel has interrupts off. It answers a flush that another asks for where it waits for a lock (the spin
//! hook), and when it is interrupted, that is in user mode and in `hlt`. It does not anywhere else, which makes an answer
//! mean more than an empty TLB: no walk without a lock is under way (`Env::flush_answers`).
//!
//! [`stop_others`] goes further: the other CPUs stand still where an interrupt met them, with no lock held and nothing
//! half done, so that what one CPU finds out stays true until it lets them go.

use crate::cpu::{self, PerCpu};
use crate::env::Machine;
use crate::{acpi, boot, hyper, phys, time, trap};
use alloc::boxed::Box;
use core::sync::atomic::{
    AtomicBool, AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release, Ordering::SeqCst, fence,
};
use ptshare_mm::{Env, NoMemory, frame};
use ptshare_paging::Pfn;
use ptshare_sync::{assert_none_held, set_spin_hook, set_wait_hook, spin_wait, waiting};
use ptshare_wire::Wait;
use ptshare_wire::census::CPUS_MAX;
use ptshare_wire::layout::VECTOR_IPI;

/// log2 of the pages of a CPU's first stack, its idle task's: 16 KiB.
const STACK_ORDER: usize = 2;
/// How long a CPU has to come up, ns.
const START_NS: u64 = 5_000_000_000;
/// Between INIT and the first SIPI, and between that and the second, ns (SDM 3A, "MP Initialization Protocol").
const INIT_NS: u64 = 10_000_000;
const SIPI_NS: u64 = 200_000;
/// Interrupt commands: INIT asserted, and SIPI for the page [`AP_PAGE`] (SDM 3A, "Interrupt Command Register (ICR)").
const INIT: u32 = 0x4500;
const SIPI: u32 = 0x4600 | (AP_PAGE >> 12) as u32;
/// Where a CPU begins that is started so, guest-physical: below 1 MiB, of which nothing is given to the allocator
/// (`boot::set_up_memory`), and what the loader left there has been read.
const AP_PAGE: u64 = 0x8000;

/// Addresses of the areas of CPUs that have been started; 0 for the others, and for the boot CPU, which is never asked.
static AREAS: [AtomicU64; CPUS_MAX] = [const { AtomicU64::new(0) }; CPUS_MAX];
/// CPUs that run, a bit each.
static ONLINE: AtomicU64 = AtomicU64::new(1);

/// The area of the CPU that is being started, for `boot.s`.
#[unsafe(export_name = "ptshare_ap_area")]
static STARTING: AtomicU64 = AtomicU64::new(0);

unsafe extern "C" {
    fn ptshare_cpu_entry();
    static ptshare_ap_page16: u8;
    static ptshare_ap_page_end: u8;
}

unsafe extern "Rust" {
    safe fn ptshare_hook_cpu() -> !;
}

/// CPUs that run, a bit each.
#[inline]
pub fn online() -> u64 {
    ONLINE.load(Relaxed)
}

/// Is there more than one?
#[inline]
pub fn several() -> bool {
    online() != 1
}

/// Why a CPU does not run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StartError {
    /// No memory for its stack and its area.
    NoMemory,
    /// The machine has no such CPU, or no way to start it.
    Absent,
    /// It was started, and was not heard of.
    Silent,
}

impl From<NoMemory> for StartError {
    fn from(_: NoMemory) -> Self {
        StartError::NoMemory
    }
}

/// Starts CPU number `index`, and waits until it runs. Called by the boot CPU, one after the other.
///
/// # Errors
/// [`StartError`].
pub fn start(index: usize) -> Result<(), StartError> {
    if index == 0 || index >= CPUS_MAX {
        return Err(StartError::Absent);
    }
    let own = cpu::this();
    own.apic.store(time::apic_id().into(), Relaxed);
    AREAS[0].store(core::ptr::from_ref(own) as u64, Relaxed);
    // On a machine of our VMM's an APIC's identifier is the CPU's number.
    let apic = match hyper::own_machine() {
        true => Some(index as u8),
        false => acpi::other_cpu(time::apic_id(), index - 1),
    };
    let apic = apic.ok_or(StartError::Absent)?;
    // From the first one on locks are contended.
    set_spin_hook(answer);
    set_wait_hook(note_wait);
    let stack = Frames::take(STACK_ORDER, false)?;
    let block = Frames::take(0, true)?;
    let area = Box::new(PerCpu::new(index as u64));
    area.set_first_stack(stack.address() + (4096 << STACK_ORDER));
    area.block.store(block.address(), Relaxed);
    area.apic.store(apic.into(), Relaxed);
    let area = Box::into_raw(area);
    AREAS[index].store(area as u64, Release);
    if hyper::own_machine() {
        let entry = ptshare_cpu_entry as *const () as u64;
        if !hyper::start_cpu(index as u64, entry, area as u64) {
            AREAS[index].store(0, Release);
            // SAFETY: made by `into_raw` above. `AREAS` has named it, but nobody looks for the area of a CPU that is
            // not online; and the CPU that would have run with it was not started.
            drop(unsafe { Box::from_raw(area) });
            return Err(StartError::Absent);
        }
    }
    // From here on the CPU may run, be it later than we wait for it: what it uses is never given back.
    stack.keep();
    block.keep();
    if !hyper::own_machine() {
        STARTING.store(area as u64, Release);
        put_ap_page();
        time::command(apic, INIT);
        comes_up(index, INIT_NS);
        time::command(apic, SIPI);
        // A second one only for a CPU that has missed the first: to others it means nothing.
        if !comes_up(index, SIPI_NS) {
            time::command(apic, SIPI);
        }
    }
    if !comes_up(index, START_NS) {
        return Err(StartError::Silent);
    }
    boot::census().cpus.fetch_max(index as u64 + 1, Relaxed);
    Ok(())
}

/// Frames for a CPU that may yet be refused: they go back when this is dropped.
struct Frames {
    first: Pfn,
    order: usize,
}

impl Frames {
    fn take(order: usize, zeroed: bool) -> Result<Frames, NoMemory> {
        Ok(Frames { first: frame::alloc_kernel(&Machine, order, zeroed)?, order })
    }

    /// Where they begin in the linear map.
    fn address(&self) -> u64 {
        phys::virt(self.first.pa().0)
    }

    fn keep(self) {
        core::mem::forget(self);
    }
}

impl Drop for Frames {
    fn drop(&mut self) {
        frame::free_kernel(&Machine, self.first, self.order);
    }
}

/// Waits for a CPU, at most so long; says whether it runs.
fn comes_up(index: usize, ns: u64) -> bool {
    let deadline = time::now_ns() + ns;
    while online() >> index & 1 == 0 {
        if time::now_ns() > deadline {
            return false;
        }
        spin_wait();
    }
    true
}

/// Puts the code with which a CPU begins in real mode where it can run.
fn put_ap_page() {
    let start = core::ptr::addr_of!(ptshare_ap_page16);
    let len = core::ptr::addr_of!(ptshare_ap_page_end) as usize - start as usize;
    // SAFETY: `boot.s` defines both ends of this code, which nobody writes.
    phys::write(AP_PAGE, unsafe { core::slice::from_raw_parts(start, len) });
}

/// First Rust code of every CPU but the boot CPU.
#[unsafe(no_mangle)]
extern "C" fn ptshare_cpu_main(area: &'static PerCpu) -> ! {
    cpu::init(area);
    trap::load();
    hyper::init_cpu();
    time::init_cpu();
    boot::cpu_rec(cpu::id()).online.store(1, Relaxed);
    ONLINE.fetch_or(1 << cpu::id(), SeqCst);
    ptshare_hook_cpu()
}

/// Tells the census what this CPU spins for.
fn note_wait(wait: Option<Wait>) {
    boot::cpu_rec(cpu::id()).waits_for.store(wait.map_or(0, Wait::word), Relaxed);
}

fn area(cpu: usize) -> Option<&'static PerCpu> {
    let address = AREAS[cpu % CPUS_MAX].load(Acquire) as *const PerCpu;
    // SAFETY: a non-zero word is the address of an area that lives for ever.
    (!address.is_null()).then(|| unsafe { &*address })
}

fn each(mask: u64) -> impl Iterator<Item = &'static PerCpu> {
    (0..CPUS_MAX).filter(move |cpu| mask >> cpu & 1 != 0).filter_map(area)
}

/// Interrupts another CPU, which then looks for what there is to do.
pub fn interrupt(cpu: usize) {
    if let Some(area) = area(cpu) {
        notify(area);
    }
}

fn notify(area: &PerCpu) {
    Machine.stats().ipis.fetch_add(1, Relaxed);
    // Fixed delivery, level asserted.
    time::command(area.apic.load(Relaxed) as u8, u32::from(VECTOR_IPI) | 1 << 14);
}

/// Has the CPUs of `mask`, not the calling one, drop their translations, and waits until they have.
#[cold]
pub(crate) fn shoot_down(mask: u64) {
    Machine.stats().tlb_shootdowns.fetch_add(1, Relaxed);
    ask(mask);
}

/// Has the CPUs of `mask`, not the calling one, pass a full memory barrier and serialise, and waits until they have. The
/// caller holds no lock.
pub fn barrier(mask: u64) {
    assert_none_held();
    fence(SeqCst);
    ask(mask);
}

/// Has the CPUs of `mask` call [`answer`], each where it may.
fn ask(mask: u64) {
    for area in each(mask) {
        area.flushes_wanted.fetch_add(1, SeqCst);
        notify(area);
    }
    for area in each(mask) {
        // Perhaps more than what we asked for, but not less.
        let wanted = area.flushes_wanted.load(Relaxed);
        if area.flushes_done.load(Acquire) < wanted {
            waiting(Wait::Answer { cpu: area.number() }, || {
                while area.flushes_done.load(Acquire) < wanted {
                    spin_wait();
                }
            });
        }
    }
}

/// Does what other CPUs have asked this one for.
#[inline]
pub(crate) fn answer() {
    let cpu = cpu::this();
    let wanted = cpu.flushes_wanted.load(Acquire);
    if wanted != cpu.flushes_done.load(Relaxed) {
        cpu::flush_all();
        cpu.flushes_done.store(wanted, Release);
    }
}

/// A CPU has the others stopped, is about to, or has not yet seen them all go.
static STOPPER: AtomicBool = AtomicBool::new(false);
/// The others are to stand still.
static STOP: AtomicBool = AtomicBool::new(false);
/// CPUs that stand still, a bit each.
static STANDING: AtomicU64 = AtomicU64::new(0);

/// While this lives, every other CPU stands still.
#[must_use = "the other CPUs go on when this is dropped"]
pub struct Stopped(());

/// Stops the other CPUs. Each finishes what it does in the kernel first, so the caller holds no lock that one could wait for;
/// while it waits for its turn it stands still for another who was first.
pub fn stop_others() -> Stopped {
    assert_none_held();
    if several() {
        while STOPPER.swap(true, SeqCst) {
            stand_still();
            spin_wait();
        }
        let others = online() & !(1 << cpu::id());
        STOP.store(true, SeqCst);
        each(others).for_each(notify);
        while STANDING.load(SeqCst) != others {
            spin_wait();
        }
    }
    Stopped(())
}

impl Drop for Stopped {
    fn drop(&mut self) {
        if several() {
            STOP.store(false, SeqCst);
            // Whoever stops them next must not take one for standing that is on its way.
            while STANDING.load(SeqCst) != 0 {
                spin_wait();
            }
            STOPPER.store(false, SeqCst);
        }
    }
}

/// Stands still as long as another CPU wants it. Flushes are answered meanwhile: those that it waits for may need that.
#[inline]
pub(crate) fn stand_still() {
    if STOP.load(Relaxed) {
        stand();
    }
}

#[cold]
fn stand() {
    let me = 1 << cpu::id();
    STANDING.fetch_or(me, SeqCst);
    while STOP.load(SeqCst) {
        spin_wait();
    }
    STANDING.fetch_and(!me, SeqCst);
}
