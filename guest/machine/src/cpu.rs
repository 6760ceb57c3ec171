//! CPUs: the per-CPU area, descriptor tables, control registers, idling.

use crate::env::Machine;
use core::arch::asm;
use core::arch::x86_64::__cpuid_count;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use ptshare_mm::Env;
use ptshare_mutants::mutant;
use ptshare_paging::Pfn;
use ptshare_wire::CpuRec;

/// Kernel code selector, as Linux lays its GDT out.
pub const KERNEL_CS: u16 = 0x10;
/// User data selector.
pub const USER_DS: u16 = 0x2b;
/// User code selector.
pub const USER_CS: u16 = 0x33;

const MSR_EFER: u32 = 0xc000_0080;
const MSR_STAR: u32 = 0xc000_0081;
const MSR_LSTAR: u32 = 0xc000_0082;
const MSR_FMASK: u32 = 0xc000_0084;
const MSR_FS_BASE: u32 = 0xc000_0100;
const MSR_GS_BASE: u32 = 0xc000_0101;
const MSR_KERNEL_GS_BASE: u32 = 0xc000_0102;

/// Bytes of a CPU's emergency stack (double fault, NMI).
const EMERGENCY_STACK_BYTES: usize = 8192;

/// What a CPU keeps for itself. GS points here in kernel mode; `trap.s` knows the first three offsets.
#[repr(C)]
pub struct PerCpu {
    self_ptr: AtomicU64,
    user_rsp: AtomicU64,
    kernel_rsp: AtomicU64,
    id: AtomicU64,
    /// Ranks of the locks that this CPU holds, a bit each.
    held: AtomicU64,
    /// A word for the scheduler: the current task.
    current: AtomicU64,
    root: AtomicU64,
    /// Identifier of its local APIC.
    pub(crate) apic: AtomicU64,
    /// Address of its hypercall block.
    pub(crate) block: AtomicU64,
    /// Flushes that other CPUs have asked for, and how many of these have been done.
    pub(crate) flushes_wanted: AtomicU64,
    pub(crate) flushes_done: AtomicU64,
    tss: UnsafeCell<Tss>,
    gdt: UnsafeCell<[u64; 10]>,
    emergency_stack: UnsafeCell<[u8; EMERGENCY_STACK_BYTES]>,
}

/// SDM 3A, "Task Management in 64-bit Mode".
#[repr(C, packed(4))]
struct Tss {
    _reserved0: u32,
    rsp: [u64; 3],
    _reserved1: u64,
    ist: [u64; 7],
    _reserved2: u64,
    _reserved3: u16,
    iomap: u16,
}

// SAFETY: the cells are written by their own CPU alone, with interrupts off; everything else is atomic.
unsafe impl Sync for PerCpu {}

impl PerCpu {
    /// The area of CPU number `id`, before [`init`].
    pub(crate) const fn new(id: u64) -> PerCpu {
        PerCpu {
            self_ptr: AtomicU64::new(0),
            user_rsp: AtomicU64::new(0),
            kernel_rsp: AtomicU64::new(0),
            id: AtomicU64::new(id),
            held: AtomicU64::new(0),
            current: AtomicU64::new(0),
            root: AtomicU64::new(0),
            apic: AtomicU64::new(0),
            block: AtomicU64::new(0),
            flushes_wanted: AtomicU64::new(0),
            flushes_done: AtomicU64::new(0),
            tss: UnsafeCell::new(Tss {
                _reserved0: 0,
                rsp: [0; 3],
                _reserved1: 0,
                ist: [0; 7],
                _reserved2: 0,
                _reserved3: 0,
                iomap: 104,
            }),
            gdt: UnsafeCell::new([
                0,
                0,
                0x00af_9b00_0000_ffff, // 0x10 kernel code
                0x00cf_9300_0000_ffff, // 0x18 kernel data
                0x00cf_fb00_0000_ffff, // 0x20 user code, 32-bit
                0x00cf_f300_0000_ffff, // 0x28 user data
                0x00af_fb00_0000_ffff, // 0x30 user code
                0,
                0, // 0x40 TSS, two words
                0,
            ]),
            emergency_stack: UnsafeCell::new([0; EMERGENCY_STACK_BYTES]),
        }
    }

    /// Its number.
    pub(crate) fn number(&self) -> u64 {
        self.id.load(Relaxed)
    }

    /// Says on which stack the CPU starts.
    pub(crate) fn set_first_stack(&self, top: u64) {
        self.kernel_rsp.store(top, Relaxed);
    }
}

static BOOT_CPU: PerCpu = PerCpu::new(0);

#[repr(C, packed)]
struct TablePointer {
    limit: u16,
    base: u64,
}

unsafe extern "C" {
    fn ptshare_syscall_entry();
}

/// Address of the SYSCALL entry, as LSTAR holds it.
#[inline]
pub(crate) fn lstar() -> u64 {
    ptshare_syscall_entry as *const () as u64
}

/// This CPU's area.
#[inline]
pub(crate) fn this() -> &'static PerCpu {
    let area: *const PerCpu;
    // SAFETY: GS points at this CPU's area from `init` on, and its first word is its own address.
    unsafe {
        asm!("mov {}, gs:[0]", out(reg) area, options(nostack, preserves_flags, readonly));
        &*area
    }
}

/// Number of this CPU, from 0.
#[inline]
pub fn id() -> usize {
    this().id.load(Relaxed) as usize
}

/// A word for the scheduler, one a CPU.
#[inline]
pub fn current_word() -> &'static AtomicU64 {
    &this().current
}

fn held() -> &'static AtomicU64 {
    &this().held
}

/// Gives the boot CPU its tables and its area.
pub(crate) fn init_boot() {
    init(&BOOT_CPU);
}

/// Gives the calling CPU its tables and its area.
pub(crate) fn init(cpu: &'static PerCpu) {
    cpu.self_ptr.store(core::ptr::from_ref(cpu) as u64, Relaxed);
    // SAFETY: nothing else refers to the cells yet; the addresses loaded live for ever.
    unsafe {
        let tss = &mut *cpu.tss.get();
        let emergency_top = cpu.emergency_stack.get() as u64 + EMERGENCY_STACK_BYTES as u64;
        tss.ist[0] = emergency_top & !15;
        let base = cpu.tss.get() as u64;
        let gdt = &mut *cpu.gdt.get();
        gdt[8] = 103 | (base & 0xff_ffff) << 16 | 0x89 << 40 | (base >> 24 & 0xff) << 56;
        gdt[9] = base >> 32;
        let pointer = TablePointer { limit: 79, base: cpu.gdt.get() as u64 };
        asm!("lgdt [{}]", in(reg) &pointer, options(nostack, readonly));
        asm!("ltr {:x}", in(reg) 0x40u16, options(nostack));
        // Reload CS by a far return; SS stays 0x18.
        asm!("push 0x10", "lea {t}, [rip + 2f]", "push {t}", "retfq", "2:", t = out(reg) _);
    }
    wrmsr(MSR_GS_BASE, core::ptr::from_ref(cpu) as u64);
    wrmsr(MSR_KERNEL_GS_BASE, 0);
    wrmsr(MSR_STAR, 0x0023_0010 << 32);
    wrmsr(MSR_LSTAR, lstar());
    // On SYSCALL clear IF, TF, DF, AC, NT, IOPL.
    wrmsr(MSR_FMASK, 0x4_7700);
    wrmsr(MSR_EFER, 0xd01);
    ptshare_sync::set_held_hook(held);
}

/// Loads the interrupt table.
pub(crate) fn load_idt(table: *const [[u64; 2]; 256]) {
    let pointer = TablePointer { limit: 4095, base: table as u64 };
    // SAFETY: the table is a static that lives for ever and is complete.
    unsafe { asm!("lidt [{}]", in(reg) &pointer, options(nostack, readonly)) }
}

/// Sets the stack on which traps from user mode start.
#[inline]
pub(crate) fn set_kernel_stack(top: u64) {
    let cpu = this();
    cpu.kernel_rsp.store(top, Relaxed);
    // SAFETY: this CPU's own TSS, interrupts off. The field is unaligned by design, hence the raw write.
    unsafe { core::ptr::write_unaligned(core::ptr::addr_of_mut!((*cpu.tss.get()).rsp[0]), top) }
}

fn wrmsr(msr: u32, value: u64) {
    // SAFETY: only the registers named above, with values that this file and `context` build.
    unsafe {
        asm!("wrmsr", in("ecx") msr, in("eax") value as u32, in("edx") (value >> 32) as u32,
             options(nostack, preserves_flags))
    }
}

/// The user's FS base.
#[inline]
pub(crate) fn set_fs_base(value: u64) {
    wrmsr(MSR_FS_BASE, value);
}

/// The user's GS base: swapped in on the way to user mode.
#[inline]
pub(crate) fn set_user_gs_base(value: u64) {
    wrmsr(MSR_KERNEL_GS_BASE, value);
}

/// Time-stamp counter.
#[inline]
pub fn rdtsc() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: reads a counter.
    unsafe { asm!("rdtsc", out("eax") low, out("edx") high, options(nomem, nostack, preserves_flags)) }
    u64::from(high) << 32 | u64::from(low)
}

/// CPUID leaf: EAX, EBX, ECX, EDX (subleaf 0).
pub fn cpuid(leaf: u32) -> (u32, u32, u32, u32) {
    let r = __cpuid_count(leaf, 0);
    (r.eax, r.ebx, r.ecx, r.edx)
}

/// Are there pages of 1 GiB? CPUID.80000001H:EDX[26] (SDM 2A, CPUID).
pub fn has_gib_pages() -> bool {
    cpuid(0x8000_0001).3 & (1 << 26) != 0
}

/// Address of the last page fault.
#[inline]
pub(crate) fn cr2() -> u64 {
    let value;
    // SAFETY: reads a register.
    unsafe { asm!("mov {}, cr2", out(reg) value, options(nomem, nostack, preserves_flags)) }
    value
}

/// The loaded root.
#[inline]
pub(crate) fn cr3() -> u64 {
    let value;
    // SAFETY: reads a register.
    unsafe { asm!("mov {}, cr3", out(reg) value, options(nomem, nostack, preserves_flags)) }
    value
}

#[inline]
fn set_cr3(pa: u64) {
    // SAFETY: every root has the kernel half, so the kernel goes on running; callers own the root.
    unsafe { asm!("mov cr3, {}", in(reg) pa, options(nostack, preserves_flags)) }
}

/// Drops all non-global translations of this CPU.
#[inline]
pub(crate) fn flush_all() {
    set_cr3(cr3());
}

/// Lets translations of global pages stay when a root is loaded, and drops all that there are: the low addresses at which
/// the kernel began are programs' from now on.
pub(crate) fn use_global_pages() {
    const PGE: u64 = 1 << 7;
    flush_all();
    // SAFETY: a change of PGE drops translations (SDM 3A, "Operations that Invalidate TLBs and Paging-Structure Caches").
    unsafe {
        asm!("mov {t}, cr4", "or {t}, {pge}", "mov cr4, {t}", t = out(reg) _, pge = const PGE, options(nostack))
    }
}

/// Drops one page's translation, and this CPU's paging-structure caches with it (SDM 3A, "Operations that Invalidate
/// TLBs and Paging-Structure Caches").
#[inline]
pub(crate) fn flush_page(va: u64) {
    // SAFETY: invalidating translations never harms.
    unsafe { asm!("invlpg [{}]", in(reg) va, options(nostack, preserves_flags)) }
}

/// Loads an mm's root (slot and frame number), or the kernel's own (`None`), and says so in the census.
///
/// `pid` is the process that the CPU runs from now on, 0 for none.
pub fn load_mm(mm: Option<(u32, Pfn)>, pid: u64) {
    let cpu = this();
    let rec: &CpuRec = crate::boot::cpu_rec(cpu.id.load(Relaxed) as usize);
    rec.pid.store(pid, Relaxed);
    let (slot_plus_1, root) = match mm {
        Some((slot, root)) => (u64::from(slot) + 1, root),
        None => (0, crate::boot::kernel_root()),
    };
    if cpu.root.load(Relaxed) == root.0 {
        return;
    }
    Machine.critical_enter();
    let bit = 1u64 << (cpu.id.load(Relaxed) & 63);
    let old = rec.mm_slot.load(Relaxed);
    if slot_plus_1 != 0 {
        let bit = if mutant!(CPUMASK_LACKS_CPU) { 0 } else { bit };
        Machine.mm_rec(slot_plus_1 as u32 - 1).cpumask.fetch_or(bit, Relaxed);
    }
    set_cr3(root.pa().0);
    if old != 0 {
        Machine.mm_rec(old as u32 - 1).cpumask.fetch_and(!bit, Relaxed);
    }
    if !(mutant!(CPU_RECORD_LAGS) && slot_plus_1 > 2) {
        rec.mm_slot.store(slot_plus_1, Relaxed);
    }
    cpu.root.store(root.0, Relaxed);
    Machine.critical_exit();
}

/// Enables interrupts for the length of one `hlt`, so that exactly what wakes this CPU is delivered.
pub fn halt_until_interrupt() {
    ptshare_sync::assert_none_held();
    // SAFETY: interrupts enter through the kernel's gates on the current stack, which is at a call boundary here.
    unsafe { asm!("sti", "hlt", "cli") }
}

/// Stops this CPU for ever.
pub(crate) fn stop() -> ! {
    loop {
        // SAFETY: nothing is left to run on this CPU.
        unsafe { asm!("cli", "hlt", options(nomem, nostack)) }
    }
}
