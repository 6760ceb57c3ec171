# PVH entry: 32-bit protected mode, paging off, EBX = address of hvm_start_info (Xen, docs/misc/pvh.pandoc).
# Builds nothing: the boot page tables below are complete at link time. Then long mode, then the higher half.

    .set VIRT, 0xffffffff80000000
    .set LINEAR_SLOT, 273

    .section .note.Xen, "a", @note
    .align 4
    .long 4                         # name size
    .long 8                         # descriptor size
    .long 18                        # XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .align 4
    .quad ptshare_start32 - VIRT

    .section .boot.text, "ax", @progbits
    .code32
    .globl ptshare_start32
ptshare_start32:
    cli
    cld
    mov esi, ebx                    # start_info survives in ESI
    mov eax, offset boot_pgd - VIRT
    mov cr3, eax
    mov eax, 0x6a0                  # CR4: PAE | PGE | OSFXSR | OSXMMEXCPT
    mov cr4, eax
    mov ecx, 0xc0000080             # EFER: SCE | LME | NXE
    mov eax, 0x901
    xor edx, edx
    wrmsr
    mov eax, 0x80010033             # CR0: PG | WP | NE | ET | MP | PE
    mov cr0, eax
    lgdt [boot_gdt_ptr - VIRT]
    ljmp 0x10, offset boot_long - VIRT

    .code64
boot_long:
    movabs rax, offset boot_high
    jmp rax
boot_high:
    mov eax, 0x18
    mov ds, eax
    mov es, eax
    mov ss, eax
    xor eax, eax
    mov fs, eax
    mov gs, eax
    lea rsp, [rip + ptshare_boot_stack_top]
    xor ebp, ebp
    mov edi, esi
    call ptshare_machine_start
    ud2

    # Every other CPU starts here, in long mode with the kernel's root loaded: RDI = its area (cpu::PerCpu), whose third
    # word is the top of its stack.
    .section .text
    .balign 16
    .globl ptshare_cpu_entry
ptshare_cpu_entry:
    cli
    cld
    mov eax, 0x18
    mov ds, eax
    mov es, eax
    mov ss, eax
    xor eax, eax
    mov fs, eax
    mov gs, eax
    mov rsp, [rdi + 16]
    xor ebp, ebp
    call ptshare_cpu_main
    ud2

    .section .data
    .balign 4096
    .globl boot_pgd
boot_pgd:                           # the kernel's root
    .quad boot_pud_linear - VIRT + 0x23     # identity, cleared once the kernel runs high
    .fill LINEAR_SLOT - 1, 8, 0
    .quad boot_pud_linear - VIRT + 0x23
    .fill 511 - LINEAR_SLOT - 1, 8, 0
    .quad boot_pud_kernel - VIRT + 0x23
    .globl boot_pud_linear
boot_pud_linear:                    # linear map; from 1 GiB on filled by boot.rs
    .quad boot_pmd - VIRT + 0x23
    .fill 511, 8, 0
boot_pud_kernel:
    .fill 510, 8, 0
    .quad boot_pmd - VIRT + 0x23
    .quad boot_pmd_lapic - VIRT + 0x23
boot_pmd:                           # the first GiB in 2 MiB leaves: P W A D PS G
    .set n, 0
    .rept 512
    .quad n * 0x200000 + 0x1e3
    .set n, n + 1
    .endr
boot_pmd_lapic:                     # 0xfffffffffee00000: the local APIC, uncached, no execute
    .fill 503, 8, 0
    .quad 0x80000000fee000fb
    .fill 8, 8, 0

    .balign 16
boot_gdt:
    .quad 0, 0
    .quad 0x00af9b000000ffff        # 0x10: 64-bit kernel code
    .quad 0x00cf93000000ffff        # 0x18: kernel data
boot_gdt_ptr:
    .word 31
    .long boot_gdt - VIRT

    .section .bss
    .balign 4096
    .globl ptshare_boot_stack
ptshare_boot_stack:
    .skip 65536
    .globl ptshare_boot_stack_top
ptshare_boot_stack_top:
