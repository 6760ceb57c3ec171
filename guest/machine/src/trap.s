# Entry stubs. All end in one frame layout: trap::TrapFrame.

    .text
    .macro SAVE_REGS
    push rdi
    push rsi
    push rdx
    push rcx
    push rax
    push r8
    push r9
    push r10
    push r11
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    .endm

    .balign 16
trap_common:                        # on the stack: vector, error, rip, cs, rflags, rsp, ss
    test byte ptr [rsp + 24], 3
    jz 1f
    swapgs
1:
    SAVE_REGS
    mov rdi, rsp
    call ptshare_trap
    .globl ptshare_trap_return
ptshare_trap_return:
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbp
    pop rbx
    pop r11
    pop r10
    pop r9
    pop r8
    pop rax
    pop rcx
    pop rdx
    pop rsi
    pop rdi
    add rsp, 16
    test byte ptr [rsp + 8], 3
    jz 2f
    swapgs
2:
    iretq

    # SYSCALL on an ordinary KVM: CPL 0, still on the user's stack. (On the interpreting KVM it arrives as #PF.)
    .balign 16
    .globl ptshare_syscall_entry
ptshare_syscall_entry:
    swapgs
    mov gs:[8], rsp
    mov rsp, gs:[16]
    push 0x2b
    push qword ptr gs:[8]
    push r11
    push 0x33
    push rcx
    push 0
    push 0x100
    SAVE_REGS
    mov rdi, rsp
    call ptshare_syscall
    jmp ptshare_trap_return

    # First activation of a task: context::TaskContext::prepare_user left its frame on top of the stack.
    .globl ptshare_first_return
ptshare_first_return:
    mov rdi, rsp
    call ptshare_first
    jmp ptshare_trap_return

    # switch_stacks(save_old_rsp: *mut u64, new_rsp: u64)
    .globl ptshare_switch_stacks
ptshare_switch_stacks:
    push rbp
    push rbx
    push r12
    push r13
    push r14
    push r15
    mov [rdi], rsp
    mov rsp, rsi
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbx
    pop rbp
    ret

    # One 16-byte stub a vector.
    .macro STUB vector, has_error
    .balign 16
    .if \has_error == 0
    push 0
    .endif
    push \vector
    jmp trap_common
    .endm

    .balign 16
    .globl ptshare_trap_stubs
ptshare_trap_stubs:
    .set v, 0
    .rept 64
    .if (v == 8) || (v == 10) || (v == 11) || (v == 12) || (v == 13) || (v == 14) || (v == 17) || (v == 21) || (v == 29) || (v == 30)
    STUB v, 1
    .else
    STUB v, 0
    .endif
    .set v, v + 1
    .endr
    .balign 16
    .globl ptshare_spurious_stub
ptshare_spurious_stub:
    iretq

    # uaccess_copy(dst, src, len) -> 0, or 1 after a fault that could not be mended. Either side may be a user address.
    .balign 16
    .globl ptshare_uaccess_copy
ptshare_uaccess_copy:
    mov rcx, rdx
    shr rcx, 3
    and edx, 7
ptshare_ua0:
    rep movsq
    mov ecx, edx
ptshare_ua1:
    rep movsb
    xor eax, eax
    ret
ptshare_ua_fail:
    mov eax, 1
    ret

    # uaccess_fill(dst, byte * 0x0101010101010101, len) -> 0 or 1
    .globl ptshare_uaccess_fill
ptshare_uaccess_fill:
    mov rax, rsi
    mov rcx, rdx
    shr rcx, 3
    and edx, 7
ptshare_ua2:
    rep stosq
    mov ecx, edx
ptshare_ua3:
    rep stosb
    xor eax, eax
    ret

    # uaccess_strlen(src, max) -> bytes before the NUL, max if there is none, or -1
    .globl ptshare_uaccess_strlen
ptshare_uaccess_strlen:
    mov rcx, rsi
    xor eax, eax
    mov rdx, rdi
    test rcx, rcx
    jz 4f
ptshare_ua4:
    repne scasb
    jne 4f
    lea rax, [rdi - 1]
    sub rax, rdx
    ret
4:
    mov rax, rsi
    ret
ptshare_ua_minus1:
    mov rax, -1
    ret

    # uaccess_load32(src) -> value, or -1;  uaccess_load64(src, out) -> 0 or 1
    .globl ptshare_uaccess_load32
ptshare_uaccess_load32:
ptshare_ua5:
    mov eax, [rdi]
    ret
    .globl ptshare_uaccess_load64
ptshare_uaccess_load64:
ptshare_ua6:
    mov rax, [rdi]
    mov [rsi], rax
    xor eax, eax
    ret
    # uaccess_cmpxchg32(addr, old, new) -> value found, or -1
    .globl ptshare_uaccess_cmpxchg32
ptshare_uaccess_cmpxchg32:
    mov eax, esi
ptshare_ua7:
    lock cmpxchg [rdi], edx
    mov eax, eax
    ret

    # The fix-up table: an instruction that may fault, and where to go on when nobody can mend the fault.
    .section .rodata
    .balign 8
    .globl ptshare_fixups
ptshare_fixups:
    .quad ptshare_ua0, ptshare_ua_fail
    .quad ptshare_ua1, ptshare_ua_fail
    .quad ptshare_ua2, ptshare_ua_fail
    .quad ptshare_ua3, ptshare_ua_fail
    .quad ptshare_ua4, ptshare_ua_minus1
    .quad ptshare_ua5, ptshare_ua_minus1
    .quad ptshare_ua6, ptshare_ua_fail
    .quad ptshare_ua7, ptshare_ua_minus1
    .quad 0, 0
