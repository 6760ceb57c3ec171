//! Runs hand-assembled guests under KVM. Without /dev/kvm each test says that it is skipped, and why.

mod guest;

use guest::{Code, DATA};
use ptshare_vmm::{Config, Console, Ending, Outcome, VerifyMode, VmmError, Watchdog, run};
use ptshare_wire::census::CENSUS_MAGIC;
use ptshare_wire::hypercall::{DEVICE_MAGIC, MARK_FIRST_USER, Op, PORT_ID};
use ptshare_wire::layout::VECTOR_CONSOLE;
use std::time::{Duration, Instant};

/// Runs a guest, or says why not.
fn try_run(config: Config) -> Option<Outcome> {
    match run(&config) {
        Ok(outcome) => Some(outcome),
        Err(e @ (VmmError::NoKvm(_) | VmmError::KvmPermission(_) | VmmError::KvmUnusable(_))) => {
            println!("SKIP: {e}");
            None
        }
        Err(e) => panic!("{e}"),
    }
}

fn config(kernel: &tempfile::NamedTempFile) -> Config {
    Config {
        kernel: kernel.path().into(),
        mem_bytes: 64 << 20,
        verify: VerifyMode::Off,
        timeout: Some(Duration::from_secs(20)),
        ..Config::default()
    }
}

#[test]
fn a_guest_talks_through_the_hypercall_device_and_exits() {
    let kernel = Code::default()
        .register()
        .in32(PORT_ID, DATA + 0x100)
        .text(DATA, b"hello\n")
        .call(Op::ConsoleWrite, &[DATA, 6, 1])
        .call(Op::ConsoleWrite, &[DATA + 0x100, 4, 2])
        .call(Op::ConsoleRead, &[DATA + 0x200, 100])
        .call(Op::ConsoleWrite, &[DATA + 0x200, 5, 1])
        .call(Op::Copy, &[DATA + 0x300, DATA, 6])
        .call(Op::Clear, &[DATA, 3])
        .call(Op::ConsoleWrite, &[DATA + 0x300, 6, 1])
        .text(DATA, b"scenario s")
        .call(Op::Event, &[DATA, 10])
        .call(Op::Mark, &[MARK_FIRST_USER as u32])
        .call(Op::Exit, &[7])
        .spin()
        .into_file();
    let stdin = b"input".to_vec();
    let Some(outcome) = try_run(Config { console: Console::Captured { stdin }, ..config(&kernel) }) else {
        return;
    };
    assert_eq!(outcome.ending, Ending::Exited(7), "{}", outcome.ending);
    assert_eq!(outcome.status, 7);
    assert_eq!(outcome.stdout, b"hello\ninputhello\n");
    assert_eq!(outcome.stderr, DEVICE_MAGIC.to_le_bytes());
    assert_eq!(outcome.events[0].line, "scenario s");
    assert!(outcome.first_user_instruction_us.is_some());
    println!("instructions at the mark: {:?}", outcome.insn_emulation_at_first_user);
}

#[test]
fn a_spinning_guest_is_stopped_by_the_time_limit() {
    let kernel = Code::default().spin().into_file();
    let begin = Instant::now();
    let limit = Duration::from_millis(300);
    let Some(outcome) = try_run(Config { timeout: Some(limit), cpus: 2, ..config(&kernel) }) else { return };
    let Ending::Timeout { text } = &outcome.ending else { panic!("{:?}", outcome.ending) };
    assert!(text.contains("rip 0x0000000000100000"), "{text}");
    assert!(text.contains("bytes at rip: eb fe"), "{text}");
    assert!(begin.elapsed() < limit + Duration::from_secs(5));
    assert_eq!(outcome.status, ptshare_vmm::exit_code::TIMEOUT);
}

#[test]
fn a_halted_guest_is_stopped_by_the_time_limit() {
    // cli; hlt
    let kernel = Code::default().bytes(&[0xfa, 0xf4]).spin().into_file();
    let Some(outcome) = try_run(Config { timeout: Some(Duration::from_millis(300)), ..config(&kernel) })
    else {
        return;
    };
    assert!(matches!(outcome.ending, Ending::Timeout { .. }), "{:?}", outcome.ending);
}

#[test]
fn the_watchdog_tells_a_hang_from_a_rest() {
    let limit = Duration::from_millis(400);
    // A census whose counters never move, and then: jmp $; or cli; hlt.
    let guest = |rest: &[u8]| {
        let code = Code::default().register().text(DATA, &CENSUS_MAGIC.to_le_bytes());
        code.call(Op::Census, &[DATA]).bytes(rest).spin().into_file()
    };
    let (busy, halted) = (guest(&[]), guest(&[0xfa, 0xf4]));
    for (kernel, strict, hangs) in [(&busy, false, true), (&halted, false, false), (&halted, true, true)] {
        let watchdog = Some(Watchdog { limit, strict });
        let timeout = Some(limit * 5);
        let Some(outcome) = try_run(Config { watchdog, timeout, ..config(kernel) }) else { return };
        match &outcome.ending {
            Ending::Hang { text } => {
                assert!(hangs, "{text}");
                assert!(text.contains("CPU 0: ") && text.contains("bytes at rip"), "{text}");
                assert_eq!(outcome.status, ptshare_vmm::exit_code::HANG);
            }
            ending => assert!(!hangs && matches!(ending, Ending::Timeout { .. }), "{ending}"),
        }
    }
}

#[test]
fn a_bad_hypercall_is_reported_with_its_arguments_and_registers() {
    let kernel = Code::default().register().call(Op::Clear, &[0xf000_0000, 1]).spin().into_file();
    let Some(outcome) = try_run(config(&kernel)) else { return };
    let Ending::GuestPanic { text } = &outcome.ending else { panic!("{:?}", outcome.ending) };
    for part in ["Clear", "0xf0000000", "not RAM", "rip 0x", "rsp"] {
        assert!(text.contains(part), "{part} is missing in {text}");
    }
}

#[test]
fn memory_that_is_not_there_is_reported_with_its_address() {
    // mov eax, [0xd0000000]
    let kernel = Code::default().bytes(&[0xa1, 0, 0, 0, 0xd0]).spin().into_file();
    let Some(outcome) = try_run(config(&kernel)) else { return };
    let Ending::GuestPanic { text } = &outcome.ending else { panic!("{:?}", outcome.ending) };
    assert!(text.contains("0xd0000000"), "{text}");
    assert!(text.contains("bytes at rip"), "{text}");
}

#[test]
fn a_triple_fault_is_reported() {
    // ud2 without an IDT
    let kernel = Code::default().bytes(&[0x0f, 0x0b]).into_file();
    let Some(outcome) = try_run(config(&kernel)) else { return };
    let text = outcome.ending.to_string();
    assert!(
        matches!(&outcome.ending, Ending::GuestPanic { text } if text.contains("triple fault"))
            || matches!(outcome.ending, Ending::InternalError { .. }),
        "{text}"
    );
    println!("{text}");
}

#[test]
fn serial_output_and_the_debug_exit_need_no_hypercalls() {
    let kernel = Code::default().out8(0x3f8, b'h').out8(0x3f8, b'i').out8(0xf4, 9).spin().into_file();
    let Some(outcome) = try_run(config(&kernel)) else { return };
    assert_eq!(outcome.ending, Ending::Exited(9), "{}", outcome.ending);
    assert_eq!(outcome.kernel_log, "hi");
}

#[test]
fn sixty_four_gib_are_reported_and_cost_nothing() {
    // Exit with the number of entries in the memory map, [ebx + 48] of hvm_start_info: two RAM pieces below and one
    // above the device hole, the legacy hole, the tables of the linear map, the device hole.
    let code = [0x8b, 0x43, 48, 0xba, 0xf4, 0, 0, 0, 0xee];
    let kernel = Code::default().bytes(&code).spin().into_file();
    let Some(outcome) = try_run(Config { mem_bytes: 64 << 30, ..config(&kernel) }) else { return };
    assert_eq!(outcome.ending, Ending::Exited(6), "{}", outcome.ending);
    println!("setup took {:?}", outcome.setup);
}

#[test]
fn sse_in_the_kernel_half_is_reported_or_works() {
    // mov eax, cr4; or eax, 0x600; mov cr4, eax; xorps xmm0, xmm0; out 0xf4, al
    let code = [0x0f, 0x20, 0xe0, 0x0d, 0, 6, 0, 0, 0x0f, 0x22, 0xe0, 0x0f, 0x57, 0xc0, 0xb0, 3, 0xe6, 0xf4];
    let kernel = Code::default().bytes(&code).spin().into_file();
    let Some(outcome) = try_run(config(&kernel)) else { return };
    match &outcome.ending {
        Ending::Exited(3) => {}
        Ending::InternalError { text } => {
            assert!(text.contains("cannot emulate") && text.contains("bytes at rip: 0f 57 c0"), "{text}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn files_that_make_no_sense_are_refused_before_kvm_is_asked() {
    let mut empty = config(&tempfile::NamedTempFile::new().unwrap());
    assert!(matches!(run(&empty), Err(VmmError::BadFile { what: "kernel", .. })));
    let text = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(text.path(), "no ELF").unwrap();
    empty.kernel = text.path().into();
    assert!(matches!(run(&empty), Err(VmmError::BadFile { what: "kernel", .. })));
}

#[test]
fn interpreted_instructions_are_counted_where_kvm_interprets() {
    // mov ecx, 2000; loop: dec ecx; jnz loop
    let code = [0xb9, 0xd0, 0x07, 0, 0, 0x49, 0x75, 0xfd];
    let kernel = Code::default()
        .register()
        .bytes(&code)
        .call(Op::Mark, &[MARK_FIRST_USER as u32])
        .call(Op::Exit, &[0])
        .spin()
        .into_file();
    let Some(outcome) = try_run(config(&kernel)) else { return };
    assert_eq!(outcome.ending, Ending::Exited(0), "{}", outcome.ending);
    match outcome.insn_emulation_at_first_user {
        // Two a turn, and a few around the loop.
        Some(n) => assert!((4000..4100).contains(&n), "{n}"),
        None => println!("this KVM does not interpret the guest's kernel half, or does not count"),
    }
}

#[test]
fn waiting_input_interrupts_a_halted_guest() {
    const IDT: u32 = 0x50_0000;
    const LAPIC_SPURIOUS: u32 = 0xfee0_00f0;
    let handler = Code::default().call(Op::Exit, &[5]);
    let over = u8::try_from(handler.len()).unwrap();
    let gate = IDT + 8 * u32::from(VECTOR_CONSOLE);
    let entry = guest::ENTRY + 2;
    let kernel = Code::default()
        .bytes(&[0xeb, over]) // jmp over the handler
        .append(handler)
        .register()
        // A 32-bit interrupt gate, the IDT's limit and base, a stack, and the local APIC switched on.
        .store(gate, 8 << 16 | entry & 0xffff)
        .store(gate + 4, entry & 0xffff_0000 | 0x8e00)
        .store(DATA, 0x7ff | (IDT & 0xffff) << 16)
        .store(DATA + 4, IDT >> 16)
        .bytes(&[0x0f, 0x01, 0x1d]) // lidt [DATA]
        .bytes(&DATA.to_le_bytes())
        .bytes(&[0xbc, 0, 0, 0x60, 0]) // mov esp, 0x600000
        .store(LAPIC_SPURIOUS, 0x1ff)
        .bytes(&[0xfb]) // sti
        .call(Op::Mark, &[MARK_FIRST_USER as u32])
        .bytes(&[0xf4]) // hlt
        .spin()
        .into_file();
    let Some(outcome) = try_run(config(&kernel)) else { return };
    assert_eq!(outcome.ending, Ending::Exited(5), "{}", outcome.ending);
}
