//! Guest-physical and guest-virtual constants, each once.
//!
//! | guest-virtual | what |
//! |---|---|
//! | `0 .. USER_END` | the process |
//! | [`LINEAR_BASE`] + pa | all of RAM, uncached holes excepted, in 1 GiB or 2 MiB leaves |
//! | [`KERNEL_VIRT_BASE`] + pa | the kernel image |
//! | [`LAPIC_VIRT`] | the local APIC's registers, uncached |

/// Where the kernel image is loaded (guest-physical, bytes).
pub const KERNEL_PHYS_LOAD: u64 = 0x10_0000;
/// Kernel image address = physical address + this.
pub const KERNEL_VIRT_BASE: u64 = 0xffff_ffff_8000_0000;
/// Linear map: virtual address = physical address + this.
pub const LINEAR_BASE: u64 = 0xffff_8880_0000_0000;
/// Bytes of physical address space that the linear map can cover (its PGD entry's span).
pub const LINEAR_MAX_BYTES: u64 = 512 << 30;
/// Local APIC registers, guest-physical.
pub const LAPIC_PHYS: u64 = 0xfee0_0000;
/// Local APIC registers, guest-virtual.
pub const LAPIC_VIRT: u64 = 0xffff_ffff_fee0_0000;
/// RAM below this lies at its own address; the rest starts at [`HIGH_RAM_START`]. Bytes.
pub const LOW_RAM_END: u64 = 3 << 30;
/// Start of the RAM that does not fit below the device hole. Bytes.
pub const HIGH_RAM_START: u64 = 4 << 30;
/// First PGD slot of the kernel half: equal in every address space from here to slot 511.
pub const KERNEL_HALF_SLOT: usize = 256;

/// The legacy serial port, used by early messages and where no hypercall device exists.
pub const SERIAL_PORT: u16 = 0x3f8;
/// QEMU's isa-debug-exit device: the way out where no hypercall device exists.
pub const DEBUG_EXIT_PORT: u16 = 0xf4;

/// Interrupt vector of the LAPIC timer.
pub const VECTOR_TIMER: u8 = 0x30;
/// Interrupt vector that the host raises when console input is waiting.
pub const VECTOR_CONSOLE: u8 = 0x31;
/// Interrupt vector of inter-processor calls (TLB shootdown, reschedule).
pub const VECTOR_IPI: u8 = 0x32;
/// Vector of spurious LAPIC interrupts.
pub const VECTOR_SPURIOUS: u8 = 0xff;
