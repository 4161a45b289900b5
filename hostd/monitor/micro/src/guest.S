# A kernel of a few hundred bytes: enters by PVH, goes to long mode, and runs one of its programs at CPL 3 with I/O
# privilege level 3, where even a paravirtual KVM runs code natively. Tables come with the file (see image.rs).
.set LOAD, 0x100000
.set GDT_POINTER, 0x200000
.set PML4, 0x201000
.set COUNTER, 0x300000
.set PATTERN, 0x400000
.set PATTERN_QWORDS, 0x80000
.set USER_STACK, 0x2f0000
.set SERIAL, 0x3f8
.set SERIAL_STATUS, 0x3fd
# As in touch.rs:
.set PLAN, 0x400000
.set PLAN_LISTS, 0x400028
.set TOUCH_WRITE, 0x80000000
.set TOUCH_READ, 0x40000000
.set TOUCH_ZERO, 0x20000000
.set TOUCH_PAGE, 0x0fffffff

.global micro_start, micro_end, micro_entry_slot
.global micro_loop, micro_reset, micro_crash, micro_touch, micro_balloon
# As in balloon.rs: pages, and the registers of the device.
.set POOL, 0x1000000
.set BALLOON, 0xd0001000
# A page per queue: descriptors, at 0x200 what is available, at 0x400 what was used; and what a request consists of.
.set RINGS, 0x500000
.set AVAILABLE, RINGS + 0x202
.set USED, RINGS + 0x402
.set LISTS, 0x510000

# To the port in dx.
.macro say_ready
    mov al, 'r'
    out dx, al
    mov al, 'e'
    out dx, al
    mov al, 'a'
    out dx, al
    mov al, 'd'
    out dx, al
    mov al, 'y'
    out dx, al
    mov al, 10
    out dx, al
.endm

.code32
micro_start:
    mov eax, cr4
    or eax, 0x40620                 # PAE, FXSR, XMM exceptions, OSXSAVE
    mov cr4, eax
    mov eax, PML4
    mov cr3, eax
    mov ecx, 0xc0000080             # EFER: long mode
    mov eax, 0x100
    xor edx, edx
    wrmsr
    mov eax, 0x80000033             # PG, NE, ET, MP, PE
    mov cr0, eax
    mov eax, GDT_POINTER
    lgdt [eax]
    .byte 0xea                      # jmp 8:micro_long
    .long micro_long - micro_start + LOAD
    .word 8
.code64
micro_long:
    xor ecx, ecx                    # x87, SSE and AVX state
    mov eax, 7
    xor edx, edx
    xsetbv
    mov eax, 0x1b
    mov ds, eax
    mov es, eax
    mov eax, 0x28                   # its I/O permission map allows the ports of the programs: where ring 0 is
    ltr ax                          # emulated, iretq loses the I/O privilege level
    mov rsp, USER_STACK
    mov rax, 0x1b
    push rax
    mov rax, USER_STACK
    push rax
    mov rax, 0x3002                 # I/O privilege level 3, no interrupts
    push rax
    mov rax, 0x23
    push rax
    mov rax, [rip + micro_entry_slot]
    push rax
    iretq
.balign 8
micro_entry_slot:
    .quad 0

# Says "up" and resets the machine.
micro_reset:
    mov dx, SERIAL
    mov al, 'u'
    out dx, al
    mov al, 'p'
    out dx, al
    mov al, 10
    out dx, al
    mov al, 0xfe
    out 0x64, al
2:  pause
    jmp 2b

# Says "bad" and executes an invalid instruction: without an IDT that is a triple fault.
micro_crash:
    mov dx, SERIAL
    mov al, 'b'
    out dx, al
    mov al, 10
    out dx, al
    ud2

# Fills memory and registers with patterns, then checks them for ever. A dot per round that was right, an X and the
# end otherwise.
micro_loop:
    mov rdi, PATTERN
    mov rcx, PATTERN_QWORDS
    mov rax, 0x0123456789abcdef
2:  mov [rdi], rax
    rol rax, 7
    add rax, rcx
    add rdi, 8
    dec rcx
    jnz 2b
    mov rdi, PATTERN
    vmovdqu ymm0, [rdi]
    vmovdqu ymm1, [rdi + 32]
    vmovdqu ymm7, [rdi + 64]
    vmovdqu ymm8, [rdi + 96]
    vmovdqu ymm15, [rdi + 128]
    fld1
    fldpi
    fldl2e
    mov rbx, 0x1111111111111111
    mov rbp, 0x2222222222222222
    mov r8,  0x3333333333333333
    mov r9,  0x4444444444444444
    mov r10, 0x5555555555555555
    mov r11, 0x6666666666666666
    mov r12, 0x7777777777777777
    mov r13, 0x8888888888888888
    mov r14, 0x9999999999999999
    mov r15, 0xaaaaaaaaaaaaaaaa
3:  mov rdi, PATTERN
    mov rcx, PATTERN_QWORDS
    mov rax, 0x0123456789abcdef
4:  cmp [rdi], rax
    jne 9f
    rol rax, 7
    add rax, rcx
    add rdi, 8
    dec rcx
    jnz 4b
    mov rdi, PATTERN
    vpxor ymm2, ymm0, [rdi]
    vpxor ymm3, ymm1, [rdi + 32]
    vpor ymm2, ymm2, ymm3
    vpxor ymm3, ymm7, [rdi + 64]
    vpor ymm2, ymm2, ymm3
    vpxor ymm3, ymm8, [rdi + 96]
    vpor ymm2, ymm2, ymm3
    vpxor ymm3, ymm15, [rdi + 128]
    vpor ymm2, ymm2, ymm3
    vptest ymm2, ymm2
    jnz 9f
    fld st(1)                       # pi is the second of three
    fldpi
    fcomip st, st(1)
    fstp st(0)
    jne 9f
    mov rax, 0x1111111111111111
    cmp rbx, rax
    jne 9f
    mov rcx, 0x1111111111111111
    add rax, rcx
    cmp rbp, rax
    jne 9f
    add rax, rcx
    cmp r8, rax
    jne 9f
    add rax, rcx
    cmp r9, rax
    jne 9f
    add rax, rcx
    cmp r10, rax
    jne 9f
    add rax, rcx
    cmp r11, rax
    jne 9f
    add rax, rcx
    cmp r12, rax
    jne 9f
    add rax, rcx
    cmp r13, rax
    jne 9f
    add rax, rcx
    cmp r14, rax
    jne 9f
    add rax, rcx
    cmp r15, rax
    jne 9f
    mov rdi, COUNTER
    inc qword ptr [rdi]
    mov dx, SERIAL
    mov al, '.'
    out dx, al
    mov al, 10
    out dx, al
    jmp 3b
9:  mov dx, SERIAL
    mov al, 'X'
    out dx, al
    mov al, 10
    out dx, al
    mov al, 0xfe
    out 0x64, al
2:  pause
    jmp 2b

# Fills pages, says "ready", then touches the pages of the list whose digit is typed and prints a checksum, for ever.
# The plan tells where everything is.
micro_touch:
    mov rsi, PLAN
    mov r8, [rsi]                   # page 0
    mov r9, [rsi + 8]               # the first word of page n is (n + 1) times this,
    mov r10, [rsi + 16]             # and every further word this much more
    mov rcx, [rsi + 24]             # ranges: first page, number of pages
    mov rsi, [rsi + 32]
2:  test rcx, rcx
    jz 5f
    mov eax, [rsi]
    mov r11d, [rsi + 4]
    add rsi, 8
    dec rcx
    mov rdi, rax
    shl rdi, 12
    add rdi, r8
    inc rax
    imul rax, r9
3:  test r11, r11
    jz 2b
    mov rdx, rax
    mov ebx, 512
4:  mov [rdi], rdx
    add rdx, r10
    add rdi, 8
    dec ebx
    jnz 4b
    add rax, r9
    dec r11
    jmp 3b
5:  mov dx, SERIAL
    say_ready

6:  pause                           # a digit?
    mov dx, SERIAL_STATUS
    in al, dx
    test al, 1
    jz 6b
    mov dx, SERIAL
    in al, dx
    movzx eax, al
    sub eax, '0'
    cmp eax, 7
    ja 6b
    shl eax, 4
    add eax, PLAN_LISTS             # its list: address, length
    mov rsi, [rax]
    mov rcx, [rax + 8]
    xor ebx, ebx                    # the checksum
7:  test rcx, rcx
    jz 9f
    mov eax, [rsi]
    add rsi, 4
    dec rcx
    mov edx, eax
    and edx, TOUCH_PAGE
    mov rdi, rdx
    shl rdi, 12
    add rdi, r8
    test eax, TOUCH_READ
    jz 2f
    rol rbx, 5
    add rbx, [rdi]
    add rbx, rdx
2:  test eax, TOUCH_ZERO
    jz 4f
    xor r9d, r9d
    mov edx, 512
3:  mov [rdi + rdx * 8 - 8], r9
    dec edx
    jnz 3b
4:  test eax, TOUCH_WRITE
    jz 7b
    mov r9, rbx
    or r9, 1
    mov [rdi], r9
    jmp 7b

9:  call micro_print                # the answer
    jmp 6b

# Prints rbx in hexadecimal.
micro_print:
    mov ecx, 16
    mov dx, SERIAL
2:  rol rbx, 4
    mov eax, ebx
    and eax, 15
    add eax, '0'
    cmp eax, '9'
    jbe 3f
    add eax, 39                     # behind '9' comes 'a'
3:  out dx, al
    dec ecx
    jnz 2b
    mov al, 10
    out dx, al
    ret

# Fills the pages of a pool, says "ready", and does what the balloon device wants with them: the first r12 of r13 are in
# the balloon. For every key typed it prints how many of the others are as they were filled; for a '!' it fills them first.
micro_balloon:
    mov rsi, PLAN
    mov r13, [rsi]
    xor r12d, r12d
    xor r8d, r8d
    mov r9, r13
    call micro_fill
    mov r14d, BALLOON
    mov dword ptr [r14 + 0x70], 0   # status
    mov dword ptr [r14 + 0x70], 1
    mov dword ptr [r14 + 0x70], 3
    mov dword ptr [r14 + 0x24], 0   # features: statistics, use when short of memory, version 1
    mov dword ptr [r14 + 0x20], 6
    mov dword ptr [r14 + 0x24], 1
    mov dword ptr [r14 + 0x20], 1
    mov dword ptr [r14 + 0x70], 11
    xor ecx, ecx
2:  mov [r14 + 0x30], ecx           # queues
    mov dword ptr [r14 + 0x38], 16
    mov eax, ecx
    shl eax, 12
    add eax, RINGS
    mov [r14 + 0x80], eax
    mov dword ptr [r14 + 0x84], 0
    add eax, 0x200
    mov [r14 + 0x90], eax
    mov dword ptr [r14 + 0x94], 0
    add eax, 0x200
    mov [r14 + 0xa0], eax
    mov dword ptr [r14 + 0xa4], 0
    mov dword ptr [r14 + 0x44], 1
    inc ecx
    cmp ecx, 3
    jb 2b
    mov dword ptr [r14 + 0x70], 15
    mov dx, SERIAL
    say_ready

5:  pause
    mov ecx, [r14 + 0x100]          # how many are wanted?
    mov edx, 256
    sub ecx, r12d
    jb 3f
    mov eax, r13d                   # more: there may not be as many
    sub eax, r12d
    cmp ecx, eax
    cmova ecx, eax
    cmp ecx, edx
    cmova ecx, edx
    test ecx, ecx
    jz 6f
    xor edi, edi
    mov r8, r12
    add r12d, ecx
    jmp 4f
3:  neg ecx                         # less: the last come back first
    cmp ecx, edx
    cmova ecx, edx
    mov edi, 1
    sub r12d, ecx
    mov r8, r12
4:  lea ebx, [rcx * 4]
    lea eax, [r8 + (POOL >> 12)]
    mov esi, edi
    shl esi, 12
2:  mov [rsi + LISTS], eax
    inc eax
    add esi, 4
    dec ecx
    jnz 2b
    call micro_send
2:  pause
    mov ax, [rsi + USED]
    cmp ax, [rsi + AVAILABLE]
    jne 2b
    test edi, edi
    jz 5b
    mov r9d, ebx
    shr r9d, 2
    add r9, r8
    call micro_fill
    jmp 5b

6:  mov esi, 0x2000                 # is the buffer for statistics here?
    mov ax, [rsi + USED]
    cmp ax, [rsi + AVAILABLE]
    jne 7f
    mov word ptr [rsi + LISTS], 4   # free memory
    mov rax, r13
    sub rax, r12
    shl rax, 12
    mov [rsi + LISTS + 2], rax
    mov ebx, 10
    mov edi, 2
    call micro_send

7:  mov dx, SERIAL_STATUS           # a key?
    in al, dx
    test al, 1
    jz 5b
    mov dx, SERIAL
    in al, dx
    mov r8, r12
    xor ebx, ebx
    cmp al, '!'
    jne 2f
    mov r9, r13
    call micro_fill
2:  cmp r8, r13
    jae 4f
    call micro_page
    cmp [rdi], rax
    jne 3f
    not rax
    cmp [rdi + 4088], rax
    jne 3f
    inc rbx
3:  inc r8
    jmp 2b
4:  call micro_print
    jmp 5b

# Where page r8 of the pool is and the word it begins with; it ends with the same, inverted.
micro_page:
    mov rdi, r8
    shl rdi, 12
    add rdi, POOL
    lea rax, [r8 + 1]
    imul rax, rax, 0x1234567
    ret

# Fills pages r8 to r9 of the pool.
micro_fill:
    mov r10, r8
2:  cmp r8, r9
    jae 3f
    call micro_page
    mov [rdi], rax
    not rax
    mov [rdi + 4088], rax
    inc r8
    jmp 2b
3:  mov r8, r10
    ret

# Makes the first ebx bytes of its list available to queue edi; esi becomes its offset.
micro_send:
    mov esi, edi
    shl esi, 12
    lea rax, [rsi + LISTS]
    mov [rsi + RINGS], rax
    mov [rsi + RINGS + 8], ebx
    inc word ptr [rsi + AVAILABLE]
    mfence
    mov [r14 + 0x50], edi
    ret
micro_end:
