//! Clocks and the timer: the time-stamp counter and the local APIC.

use crate::{cpu, hyper};
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use ptshare_wire::layout::{LAPIC_VIRT, VECTOR_SPURIOUS, VECTOR_TIMER};

/// KVM and QEMU run the local APIC's timer at 1 GHz with divisor 1 (arch/x86/kvm/lapic.h, APIC_BUS_CYCLE_NS).
const LAPIC_HZ: u64 = 1_000_000_000;

/// Interrupt mask registers of the two 8259s.
const PIC_PRIMARY_MASK: u16 = 0x21;
const PIC_SECONDARY_MASK: u16 = 0xa1;

/// The 8254 interval timer.
const PIT_COUNTER_0: u16 = 0x40;
const PIT_CONTROL: u16 = 0x43;
/// Latch the status of counter 0.
const PIT_STATUS_0: u8 = 0xe2;
/// Its output is high.
const PIT_OUT: u8 = 0x80;

const REG_ID: u64 = 0x20;
const REG_EOI: u64 = 0xb0;
const REG_SPURIOUS: u64 = 0xf0;
const REG_ICR_LOW: u64 = 0x300;
const REG_ICR_HIGH: u64 = 0x310;
const REG_LVT_TIMER: u64 = 0x320;
const REG_TIMER_INITIAL: u64 = 0x380;
const REG_TIMER_CURRENT: u64 = 0x390;
const REG_TIMER_DIVIDE: u64 = 0x3e0;

static TSC_BASE: AtomicU64 = AtomicU64::new(0);
/// Nanoseconds a TSC tick, in units of 2^-32.
static TSC_MULT: AtomicU64 = AtomicU64::new(1 << 32);
static REALTIME_BASE_NS: AtomicU64 = AtomicU64::new(0);

fn lapic_write(reg: u64, value: u32) {
    // SAFETY: the boot tables map the APIC's page uncached at this address; these registers touch no memory.
    unsafe { core::ptr::write_volatile((LAPIC_VIRT + reg) as *mut u32, value) }
}

fn lapic_read(reg: u64) -> u32 {
    // SAFETY: as for `lapic_write`.
    unsafe { core::ptr::read_volatile((LAPIC_VIRT + reg) as *const u32) }
}

/// Starts the APIC and the clock. `tsc_khz` 0: measure it. `realtime_ns`: wall clock at boot, 0 when unknown.
pub fn init(tsc_khz: u64, realtime_ns: u64) {
    // The legacy interrupt controllers, where there are any, deliver the PIT's ticks at vector 8 until they are masked.
    hyper::outb(PIC_PRIMARY_MASK, 0xff);
    hyper::outb(PIC_SECONDARY_MASK, 0xff);
    init_cpu();
    let khz = if tsc_khz != 0 { tsc_khz } else { measure_tsc_khz() };
    TSC_MULT.store(((1_000_000_u128 << 32) / u128::from(khz.max(1))) as u64, Relaxed);
    TSC_BASE.store(cpu::rdtsc(), Relaxed);
    REALTIME_BASE_NS.store(realtime_ns, Relaxed);
}

/// Starts the calling CPU's APIC.
pub(crate) fn init_cpu() {
    lapic_write(REG_SPURIOUS, 0x100 | u32::from(VECTOR_SPURIOUS));
    lapic_write(REG_TIMER_DIVIDE, 0b1011);
    lapic_write(REG_LVT_TIMER, u32::from(VECTOR_TIMER));
}

/// Identifier of the calling CPU's APIC.
pub(crate) fn apic_id() -> u8 {
    (lapic_read(REG_ID) >> 24) as u8
}

/// Interrupts another CPU (SDM 3A, "Interrupt Command Register (ICR)"), named by its APIC's identifier. `command` is the
/// low half: a vector with delivery mode and level.
pub(crate) fn command(apic: u8, command: u32) {
    lapic_write(REG_ICR_HIGH, u32::from(apic) << 24);
    lapic_write(REG_ICR_LOW, command);
    // Bit 12: not sent yet.
    while lapic_read(REG_ICR_LOW) & 1 << 12 != 0 {
        core::hint::spin_loop();
    }
}

/// Counts TSC ticks over two milliseconds of the APIC's timer.
fn measure_tsc_khz() -> u64 {
    let ms = 2;
    lapic_write(REG_TIMER_INITIAL, u32::MAX);
    let (tsc, apic) = (cpu::rdtsc(), lapic_read(REG_TIMER_CURRENT));
    while u64::from(apic - lapic_read(REG_TIMER_CURRENT)) < ms * LAPIC_HZ / 1000 {}
    let ticks = cpu::rdtsc() - tsc;
    lapic_write(REG_TIMER_INITIAL, 0);
    ticks / ms
}

/// Nanoseconds since boot; never goes back.
#[inline]
pub fn now_ns() -> u64 {
    ticks_to_ns(cpu::rdtsc() - TSC_BASE.load(Relaxed))
}

/// Nanoseconds of so many ticks of the time-stamp counter.
#[inline]
pub fn ticks_to_ns(ticks: u64) -> u64 {
    ((u128::from(ticks) * u128::from(TSC_MULT.load(Relaxed))) >> 32) as u64
}

/// Nanoseconds since 1970.
pub fn realtime_ns() -> u64 {
    REALTIME_BASE_NS.load(Relaxed) + now_ns()
}

/// Sets the wall clock (clock_settime).
pub fn set_realtime_ns(ns: u64) {
    REALTIME_BASE_NS.store(ns.saturating_sub(now_ns()), Relaxed);
}

/// Arms this CPU's timer for a moment on the [`now_ns`] scale, or stops it. Longer waits than the counter holds end
/// early: whoever is woken looks at the clock and arms again.
pub fn set_timer(deadline_ns: Option<u64>) {
    let count = match deadline_ns {
        None => 0,
        Some(at) => at.saturating_sub(now_ns()).clamp(1, u64::from(u32::MAX)) as u32,
    };
    lapic_write(REG_TIMER_INITIAL, count);
}

/// Stops the timer of the PC's 8254, which firmware leaves running: mode 0, which counts down once, from 1, and a wait
/// until its output says that it has (Intel 8254 data sheet, "Mode 0", "Read-Back Command").
pub(crate) fn stop_pit() {
    hyper::outb(PIT_CONTROL, 0x30);
    hyper::outb(PIT_COUNTER_0, 1);
    hyper::outb(PIT_COUNTER_0, 0);
    // A machine without the device reads all ones.
    loop {
        hyper::outb(PIT_CONTROL, PIT_STATUS_0);
        if hyper::inb(PIT_COUNTER_0) & PIT_OUT != 0 {
            break;
        }
    }
}

/// Stops this CPU's timer; gives what is left of it, 0 when it is not armed.
pub(crate) fn hold_timer() -> u32 {
    let left = lapic_read(REG_TIMER_CURRENT);
    if left != 0 {
        lapic_write(REG_TIMER_INITIAL, 0);
    }
    left
}

/// Goes on where [`hold_timer`] stopped.
pub(crate) fn release_timer(left: u32) {
    if left != 0 {
        lapic_write(REG_TIMER_INITIAL, left);
    }
}

/// Ends an interrupt.
pub(crate) fn end_of_interrupt() {
    lapic_write(REG_EOI, 0);
}
