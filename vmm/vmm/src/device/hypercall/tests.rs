//! The hypercall device without KVM.

use super::*;
use crate::machine::testing::machine;

const BLOCK: u64 = 0x3000;

fn ask(m: &Machine, op: Op, args: &[u64]) -> Result<u64, Ending> {
    for (i, arg) in args.iter().enumerate() {
        assert!(m.ram.write_u64(BLOCK + 8 * i as u64, *arg));
    }
    m.ram.write_u64(BLOCK + 32, 0x5a5a);
    match call(m, &Caller::default(), Some(BLOCK), op as u32) {
        None => Ok(m.ram.read_u64(BLOCK + 32).unwrap()),
        Some(ending) => Err(ending),
    }
}

fn refused(m: &Machine, op: Op, args: &[u64]) -> String {
    match ask(m, op, args) {
        Err(Ending::GuestPanic { text }) => text,
        other => panic!("{op:?} {args:x?} gave {other:?}"),
    }
}

#[test]
fn ranges_outside_ram_are_the_guests_fault() {
    let m = machine(b"x");
    let end = 16 << 20;
    for (op, args) in [
        (Op::ConsoleWrite, [end, 1, 1]),
        (Op::ConsoleWrite, [end - 1, 2, 1]),
        (Op::ConsoleWrite, [u64::MAX, u64::MAX, 1]),
        (Op::ConsoleRead, [end, 1, 0]),
        (Op::Clear, [0, end + 1, 0]),
        (Op::Clear, [u64::MAX - 1, 4, 0]),
        (Op::Copy, [0, end, 1]),
        (Op::Copy, [end, 0, 1]),
        (Op::Checkpoint, [1, end, 1]),
        (Op::Event, [end, 1, 0]),
        (Op::Log, [1, end, 1]),
        (Op::Census, [end, 0, 0]),
        (Op::Census, [4, 0, 0]),
    ] {
        let text = refused(&m, op, &args);
        assert!(text.contains("not RAM") || text.contains("not lie in RAM"), "{op:?}: {text}");
        assert!(text.contains(&format!("{op:?}")), "{text}");
    }
}

#[test]
fn values_that_mean_nothing_are_refused() {
    let m = machine(b"");
    for (op, args, word) in [
        (Op::ConsoleWrite, [0, 1, 3], "stream 3"),
        (Op::Checkpoint, [9, 0, 0], "reason 9"),
        (Op::Exit, [256, 0, 0], "exit status"),
        (Op::Log, [6, 0, 0], "log level 6"),
        (Op::Copy, [0x1000, 0x1800, 0x1000], "overlap"),
        (Op::Census, [0x8000, 0, 0], "magic"),
    ] {
        let text = refused(&m, op, &args);
        assert!(text.contains(word), "{text}");
    }
    assert!(matches!(call(&m, &Caller::default(), Some(BLOCK), 77), Some(Ending::GuestPanic { .. })));
    assert!(matches!(call(&m, &Caller::default(), None, 1), Some(Ending::GuestPanic { .. })));
}

#[test]
fn console_calls_move_bytes() {
    let m = machine(b"input");
    m.ram.write(0x8000, b"hello");
    assert_eq!(ask(&m, Op::ConsoleWrite, &[0x8000, 5, 1]), Ok(5));
    assert_eq!(ask(&m, Op::ConsoleWrite, &[0x8000, 2, 2]), Ok(2));
    assert_eq!(m.console.captured(), [b"hello".to_vec(), b"he".to_vec()]);
    assert_eq!(ask(&m, Op::ConsoleRead, &[0x9000, 3]), Ok(3));
    assert_eq!(m.ram.read(0x9000, 4).unwrap(), b"inp\0");
    assert_eq!(ask(&m, Op::ConsoleRead, &[0x9000, 100]), Ok(2));
    assert_eq!(ask(&m, Op::ConsoleRead, &[0x9000, 100]), Ok(CONSOLE_EOF));
}

#[test]
fn clear_and_copy_work_on_guest_memory() {
    let m = machine(b"");
    m.ram.write(0x8000, &[7; 64]);
    assert_eq!(ask(&m, Op::Copy, &[0x20_0000, 0x8000, 64]), Ok(0));
    assert_eq!(ask(&m, Op::Clear, &[0x20_0000, 32]), Ok(0));
    assert_eq!(m.ram.read(0x20_0000, 64).unwrap(), [[0; 32], [7; 32]].concat());
    assert_eq!(ask(&m, Op::Clear, &[u64::MAX, 0]), Ok(0), "nothing to clear is nowhere");
}

#[test]
fn events_logs_and_marks_are_recorded() {
    let m = machine(b"");
    m.ram.write(0x8000, b"scenario one\n");
    assert_eq!(ask(&m, Op::Event, &[0x8000, 13]), Ok(0));
    assert_eq!(ask(&m, Op::Log, &[3, 0x8000, 8]), Ok(0));
    assert_eq!(ask(&m, Op::Mark, &[MARK_FIRST_USER]), Ok(0));
    let record = m.record();
    assert_eq!(record.events.len(), 1);
    assert_eq!(record.events[0].line, "scenario one");
    assert_eq!(record.events[0].snapshot, None, "no census yet");
    assert_eq!(record.kernel_log, "scenario\n");
    assert!(record.first_user_us.is_some());
}

#[test]
fn a_text_too_long_is_cut() {
    let m = machine(b"");
    m.ram.write(0x8000, &[b'x'; 5000]);
    assert_eq!(ask(&m, Op::Event, &[0x8000, 5000]), Ok(0));
    assert_eq!(m.record().events[0].line.len(), TEXT_MAX as usize);
}

#[test]
fn exit_and_panic_end_the_run() {
    let m = machine(b"");
    assert_eq!(ask(&m, Op::Exit, &[42]), Err(Ending::Exited(42)));
    let Err(Ending::GuestPanic { text }) = ask(&m, Op::Panic, &[0x8000]) else { panic!() };
    assert!(text.contains("guest kernel panicked"), "{text}");
    let Err(Ending::GuestPanic { text }) = ask(&m, Op::Panic, &[u64::MAX]) else { panic!() };
    assert!(text.contains("does not lie in RAM"), "{text}");
}

#[test]
fn checkpoints_are_only_counted_when_verification_is_off() {
    let m = machine(b"");
    m.ram.write(0x8000, b"label");
    assert_eq!(ask(&m, Op::Checkpoint, &[2, 0x8000, 5]), Ok(0));
    assert_eq!(ask(&m, Op::Checkpoint, &[3, 0, 0]), Ok(0));
    let record = m.record();
    assert_eq!((record.verifier.checkpoints, record.verifier.verified), (2, 0));
}
