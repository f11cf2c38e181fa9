# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The regular part of the walk in `rows.py`, compiled; see there for what a row means.

All reads stay between two pointers that are checked first. Anything unexpected ends the scan before
its record, which the reference then reads.
"""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memset

import os

cdef extern from *:
    r"""
    #include <stddef.h>
    #include <stdint.h>

    static uint32_t crc_tables[8][256];

    static void crc_prepare(void) {
        for (int i = 0; i < 256; i++) {
            uint32_t c = (uint32_t)i;
            for (int k = 0; k < 8; k++) c = (c >> 1) ^ (c & 1 ? 0x82F63B78u : 0);
            crc_tables[0][i] = c;
        }
        for (int i = 0; i < 256; i++)
            for (int k = 1; k < 8; k++)
                crc_tables[k][i] =
                    (crc_tables[k - 1][i] >> 8) ^ crc_tables[0][crc_tables[k - 1][i] & 0xff];
    }

    static uint32_t load32(const uint8_t *p) {
        return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
    }

    static uint64_t load64(const uint8_t *p) {
        return load32(p) | (uint64_t)load32(p + 4) << 32;
    }

    static uint32_t crc_portable(uint32_t c, const uint8_t *p, size_t n) {
        for (; n >= 8; p += 8, n -= 8) {
            uint32_t low = load32(p) ^ c, high = load32(p + 4);
            c = crc_tables[7][low & 0xff] ^ crc_tables[6][low >> 8 & 0xff]
              ^ crc_tables[5][low >> 16 & 0xff] ^ crc_tables[4][low >> 24]
              ^ crc_tables[3][high & 0xff] ^ crc_tables[2][high >> 8 & 0xff]
              ^ crc_tables[1][high >> 16 & 0xff] ^ crc_tables[0][high >> 24];
        }
        for (; n; p++, n--) c = (c >> 8) ^ crc_tables[0][(c ^ *p) & 0xff];
        return c;
    }

    #if defined(__x86_64__) && defined(__GNUC__)
    #define WITH_CRC __attribute__((target("sse4.2")))
    #define crc_of_8(c, value) ((uint32_t)__builtin_ia32_crc32di(c, value))
    #define crc_of_4(c, value) __builtin_ia32_crc32si(c, value)
    #define crc_of_2(c, value) __builtin_ia32_crc32hi(c, value)
    #define crc_of_1(c, value) __builtin_ia32_crc32qi(c, value)
    static int has_hardware(void) {
        __builtin_cpu_init();
        return __builtin_cpu_supports("sse4.2");
    }
    #elif defined(__aarch64__) && defined(__GNUC__)
    // Assembly, as compilers disagree on how to allow the instruction in one function.
    #define WITH_CRC
    #define crc_by(name, type, instruction, width) \
        static uint32_t name(uint32_t c, type value) { \
            __asm__(".arch_extension crc\n\t" instruction " %w0, %w0, %" width "1" \
                    : "+r"(c) : "r"(value)); \
            return c; \
        }
    crc_by(crc_of_8, uint64_t, "crc32cx", "x")
    crc_by(crc_of_4, uint32_t, "crc32cw", "w")
    crc_by(crc_of_2, uint32_t, "crc32ch", "w")
    crc_by(crc_of_1, uint32_t, "crc32cb", "w")
    #if defined(__linux__)
    #include <sys/auxv.h>
    static int has_hardware(void) { return getauxval(AT_HWCAP) >> 7 & 1; }  // HWCAP_CRC32
    #else
    static int has_hardware(void) { return 1; }  // as every Apple processor of this kind
    #endif
    #endif

    #ifdef WITH_CRC
    WITH_CRC static uint32_t crc_hardware(uint32_t c, const uint8_t *p, size_t n) {
        for (; n >= 8; p += 8, n -= 8) c = crc_of_8(c, load64(p));
        if (n & 4) { c = crc_of_4(c, load32(p)); p += 4; }
        if (n & 2) { c = crc_of_2(c, (uint16_t)(p[0] | p[1] << 8)); p += 2; }
        if (n & 1) c = crc_of_1(c, *p);
        return c;
    }
    #else
    #define crc_hardware crc_portable
    #define has_hardware() 0
    #endif
    """
    void crc_prepare() nogil
    uint32_t load32(const uint8_t *p) nogil
    uint64_t load64(const uint8_t *p) nogil
    uint32_t crc_portable(uint32_t c, const uint8_t *p, size_t n) nogil
    uint32_t crc_hardware(uint32_t c, const uint8_t *p, size_t n) nogil
    bint has_hardware()

ctypedef uint32_t (*Crc)(uint32_t, const uint8_t *, size_t) noexcept nogil

cdef struct Row:
    int64_t record_start, start, step
    double wall_time
    uint64_t bits
    int32_t record_size, size, tag, plugin_name, content_type

cdef struct Columns:
    int64_t *record_start, *start, *step
    double *wall_time
    uint64_t *bits
    int32_t *record_size, *size, *tag, *plugin_name, *content_type

cdef struct Span:
    const uint8_t *at
    const uint8_t *end

cdef struct Field:
    uint64_t number
    int wire_type
    uint64_t value  # of a varint
    Span content    # of everything else

cdef struct Value:
    Span tag, metadata, plugin_name, content
    int32_t content_type
    const uint8_t *tail  # what follows the first field

cdef enum:
    TAIL_BYTES = 72

cdef struct Scalar:
    # What followed a tag when it last named a scalar. Writers repeat all of it except the number.
    uint8_t tail[TAIL_BYTES]
    int32_t tail_size  # 0: nothing is known
    int32_t number_at, number_size, content_at, content_size  # from the start of the tail
    int32_t content_type

cdef struct Entry:
    const uint8_t *tag
    Py_ssize_t tag_size
    const uint8_t *plugin_name
    Py_ssize_t plugin_size
    uint64_t hash
    int32_t number, plugin
    Scalar last

cdef enum:
    VARINT = 0, FIXED64 = 1, BYTES = 2, FIXED32 = 5
    SIMPLE_VALUE = 1, FLOAT_SCALAR, DOUBLE_SCALAR, TENSOR, HISTO, IMAGE, AUDIO
    ROW_BYTES = 60

# As in wire.py and records.py, -1 for no member; a protocol buffer's length is below 2 GiB.
cdef int32_t[9] CONTENT_FIELDS = [-1, -1, -1, 0, IMAGE, HISTO, AUDIO, -1, TENSOR]
cdef uint64_t LARGEST_PAYLOAD = 0x7FFFFFFF

crc_prepare()
cdef Crc run_crc = crc_portable


def use_hardware(bint wanted=True):
    """Chooses between the processor's CRC32C instruction and tables; returns which is in use."""
    global run_crc
    run_crc = <Crc>crc_hardware if wanted and has_hardware() else <Crc>crc_portable
    return run_crc == <Crc>crc_hardware


use_hardware()


def crc32c(data, uint32_t crc=0):
    """Returns the CRC32C of a buffer, continuing from the CRC32C of what precedes it."""
    cdef Py_buffer view
    cdef uint32_t state = crc ^ 0xFFFFFFFFu
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        with nogil:
            state = run_crc(state, <const uint8_t *>view.buf, view.len)
    finally:
        PyBuffer_Release(&view)
    return state ^ 0xFFFFFFFFu


def find_header(data, uint64_t largest, Py_ssize_t start):
    """Returns where the next intact header of at most this length starts in a buffer, or -1."""
    cdef Py_buffer view
    cdef Py_ssize_t i, found = -1
    cdef const uint8_t *at
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        with nogil:
            at = <const uint8_t *>view.buf
            for i in range(max(start, 0), view.len - 11):
                if (
                    load64(at + i) <= largest
                    and load64(at + i) | load32(at + i + 8)  # zeros are no header
                    and masked_crc(at + i, 8) == load32(at + i + 8)
                ):
                    found = i
                    break
    finally:
        PyBuffer_Release(&view)
    return found


@cython.final
cdef class Index:
    """Tags by their bytes, in open addressing; `rows.Names` fills it and knows what they mean."""

    cdef Entry *entries
    cdef Py_ssize_t capacity, count
    cdef uint64_t seed
    cdef list owned

    def __cinit__(self):
        self.capacity = 64
        self.entries = <Entry *>calloc(self.capacity, sizeof(Entry))
        if self.entries == NULL:
            raise MemoryError
        self.owned = []
        # Seeded, so that nobody can craft a file of collisions.
        self.seed = int.from_bytes(os.urandom(8), "little")

    def __dealloc__(self):
        free(self.entries)

    def put(self, bytes tag, int32_t number, bytes plugin_name, int32_t plugin):
        """Adds a tag, or replaces the plugin name of a known one."""
        cdef Entry entry
        cdef Entry *slot
        self.owned.append((tag, plugin_name))  # the entry points into them
        entry.tag = <const uint8_t *>PyBytes_AS_STRING(tag)
        entry.tag_size = len(tag)
        entry.plugin_name = <const uint8_t *>PyBytes_AS_STRING(plugin_name)
        entry.plugin_size = len(plugin_name)
        entry.number = number
        entry.plugin = plugin
        memset(&entry.last, 0, sizeof(Scalar))  # its plugin name may have changed
        entry.hash = self.hash_of(entry.tag, entry.tag_size)
        if 2 * (self.count + 1) > self.capacity:
            self.grow()
        slot = self.find(entry.tag, entry.tag_size, entry.hash)
        self.count += slot.tag == NULL
        slot[0] = entry

    cdef int grow(self) except -1:
        cdef Entry *old = self.entries
        cdef Py_ssize_t i, old_capacity = self.capacity
        cdef Entry *larger = <Entry *>calloc(2 * old_capacity, sizeof(Entry))
        if larger == NULL:
            raise MemoryError
        self.entries, self.capacity = larger, 2 * old_capacity
        for i in range(old_capacity):
            if old[i].tag != NULL:
                self.find(old[i].tag, old[i].tag_size, old[i].hash)[0] = old[i]
        free(old)
        return 0

    cdef uint64_t hash_of(self, const uint8_t *at, Py_ssize_t size) noexcept nogil:
        cdef uint64_t h = self.seed ^ <uint64_t>size, word
        cdef Py_ssize_t i
        while size > 8:
            h = mix(h, load64(at))
            at += 8
            size -= 8
        word = 0
        for i in range(size):
            word |= <uint64_t>at[i] << (8 * i)
        return mix(h, word)

    cdef inline Entry *look_up(self, Span tag) noexcept nogil:
        cdef Py_ssize_t size = tag.end - tag.at
        return self.find(tag.at, size, self.hash_of(tag.at, size))

    cdef Entry *find(self, const uint8_t *at, Py_ssize_t size, uint64_t h) noexcept nogil:
        """Returns the tag's entry, or the free one where it belongs."""
        cdef Py_ssize_t slot = <Py_ssize_t>(h & <uint64_t>(self.capacity - 1))
        cdef Entry *entry
        while True:
            entry = &self.entries[slot]
            if entry.tag == NULL:
                return entry
            if entry.hash == h and entry.tag_size == size and memcmp(entry.tag, at, size) == 0:
                return entry
            slot = (slot + 1) & (self.capacity - 1)


@cython.final
cdef class Scanner:
    """State of one call of `scan_block`: the rows so far, and how to number a new name."""

    cdef Columns rows
    cdef Py_ssize_t count, capacity
    cdef Index index
    cdef object number
    cdef bint more
    cdef Span event  # the one that is being scanned
    cdef Py_ssize_t first  # its first row
    cdef bint checked  # it is regular from end to end, and there is room for it

    cdef Py_ssize_t walk(self, const uint8_t *data, Py_ssize_t size, int64_t base) except -1 nogil:
        """Returns the bytes of the records that were scanned."""
        cdef Py_ssize_t position = 0, before
        cdef uint64_t length
        while position < size and self.count < self.capacity:
            if size - position < 16:
                self.more = True
                break
            length = load64(data + position)
            if length > LARGEST_PAYLOAD or masked_crc(data + position, 8) != load32(
                data + position + 8
            ):
                break
            if length > <uint64_t>(size - position - 16):
                self.more = True
                break
            if masked_crc(data + position + 12, length) != load32(data + position + 12 + length):
                break
            before = self.count
            if self.scan_event(data, position, length, base) == 0:
                self.count = before
                break
            position += 16 + <Py_ssize_t>length
        return position

    cdef int scan_event(
        self, const uint8_t *data, Py_ssize_t position, uint64_t length, int64_t base
    ) except -1 nogil:
        """Adds the rows of a record; returns 0 when the reference must read it."""
        cdef Row row
        cdef Field field
        cdef Span event, summary
        cdef Py_ssize_t i
        cdef uint64_t bits
        cdef int read
        row.record_start = base + position
        row.record_size = <int32_t>(16 + length)
        row.step = 0
        row.wall_time = 0.0
        if length > LARGEST_PAYLOAD - 16:
            return 0
        event.at = data + position + 12
        event.end = event.at + length
        summary.at = NULL
        self.event = event
        self.first = self.count
        self.checked = False
        while event.at < event.end:
            if not next_field(&event, &field):
                return 0
            if field.number == 1 and field.wire_type == FIXED64:
                bits = load64(field.content.at)
                memcpy(&row.wall_time, &bits, 8)
            elif field.number == 2 and field.wire_type == VARINT:
                row.step = <int64_t>field.value
            elif field.number == 5 and field.wire_type == BYTES:
                summary = field.content
                while summary.at < summary.end:
                    if not next_field(&summary, &field):
                        return 0
                    if field.number == 1 and field.wire_type == BYTES:
                        read = self.scan_value(field.content, &row, data, base)
                        if read <= 0:
                            return read
            elif field.wire_type == BYTES and (field.number == 7 or summary.at != NULL):
                return 0  # a session log, or what may take the summary's place
        for i in range(self.first, self.count):  # step and wall time may follow the summary
            self.rows.step[i] = row.step
            self.rows.wall_time[i] = row.wall_time
        return 1

    cdef int scan_value(
        self, Span value, Row *row, const uint8_t *data, int64_t base
    ) except -1 nogil:
        """Adds the row of a value; returns 0 when the reference must read its record."""
        cdef Field field
        cdef Entry *entry
        cdef Span tail = value
        if not next_field(&tail, &field) or field.number != 1 or field.wire_type != BYTES:
            return self.parse_value(value, row, data, base)
        entry = self.index.look_up(field.content)
        if not is_repeated(&entry.last, tail):
            return self.parse_value(value, row, data, base)
        row.tag, row.plugin_name = entry.number, entry.plugin
        row.content_type = entry.last.content_type
        row.bits = load_number(tail.at + entry.last.number_at, entry.last.number_size)
        row.start = base + (tail.at - data) + entry.last.content_at
        row.size = entry.last.content_size
        return self.add(row)

    cdef int parse_value(
        self, Span value, Row *row, const uint8_t *data, int64_t base
    ) except -1 nogil:
        """Does the same for a value of any layout, and remembers that of a scalar."""
        cdef Value parsed
        cdef Span content, number
        cdef Entry *entry
        cdef bint known
        if not find_fields(value, &parsed):
            return 0
        row.content_type, content = parsed.content_type, parsed.content
        number = content
        if row.content_type == TENSOR:
            row.content_type = classify_tensor(content, &number)
        entry = self.index.look_up(parsed.tag)
        known = entry.tag != NULL and is_plugin(entry, parsed.plugin_name)
        if known:
            row.tag, row.plugin_name = entry.number, entry.plugin
        elif self.learn(&parsed, row) == 0:
            return 0
        if row.content_type == 0:
            return 1
        row.bits = 0
        if row.content_type <= DOUBLE_SCALAR:
            row.bits = load_number(number.at, <int32_t>(number.end - number.at))
            if known and parsed.tag.end == parsed.tail and value.end - parsed.tail <= TAIL_BYTES:
                remember(&entry.last, row.content_type, parsed.tail, value.end, content, number)
        row.start = base + (content.at - data)
        row.size = <int32_t>(content.end - content.at)
        return self.add(row)

    cdef int learn(self, Value *value, Row *row) except -1 with gil:
        """Numbers a new tag or plugin name; returns 0 when its event cannot be finished.

        Learns nothing from an event that is broken further on, or has more values than fit: whoever
        reads it again from its start would know names too early.
        """
        cdef Py_ssize_t values
        if not self.checked:
            values = count_values(self.event)
            if values < 0 or values > self.capacity - self.first:
                return 0
        self.checked = True
        row.tag, row.plugin_name = self.number(
            as_bytes(value.tag), as_bytes(value.plugin_name), as_bytes(value.metadata)
        )
        return 1

    cdef int add(self, Row *row) noexcept nogil:
        cdef Py_ssize_t i = self.count
        if i == self.capacity:
            return 0
        self.rows.record_start[i] = row.record_start
        self.rows.start[i] = row.start
        self.rows.bits[i] = row.bits
        self.rows.record_size[i] = row.record_size
        self.rows.size[i] = row.size
        self.rows.tag[i] = row.tag
        self.rows.plugin_name[i] = row.plugin_name
        self.rows.content_type[i] = row.content_type
        self.count = i + 1
        return 1


def scan_block(data, int64_t base, Index index, number, columns):
    """Scans the intact and regular records at the start of a block.

    Args:
        data: Bytes of the file that begin with a record.
        base: Position of the first of them in the file.
        index: Of the run's names.
        number: `Names.number`, called with what the index does not know.
        columns: Writable memory for the columns of `rows.Rows`, one after the other. Scans as
            many rows as fit, but no record in part.

    Returns:
        The number of rows, the bytes of their records, and whether the scan stopped because the
        block ends inside the next record.
    """
    cdef Py_buffer view, memory
    cdef Py_ssize_t size
    cdef Scanner scanner = Scanner()
    scanner.index, scanner.number = index, number
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        PyObject_GetBuffer(columns, &memory, PyBUF_WRITABLE)
        try:
            scanner.capacity = memory.len // ROW_BYTES
            scanner.rows = lay_out(<char *>memory.buf, scanner.capacity)
            with nogil:
                size = scanner.walk(<const uint8_t *>view.buf, view.len, base)
        finally:
            PyBuffer_Release(&memory)
    finally:
        PyBuffer_Release(&view)
    return scanner.count, size, scanner.more


cdef Columns lay_out(char *memory, Py_ssize_t rows) noexcept:
    cdef Columns columns
    columns.record_start = <int64_t *>memory
    columns.start = columns.record_start + rows
    columns.step = columns.start + rows
    columns.wall_time = <double *>(columns.step + rows)
    columns.bits = <uint64_t *>(columns.wall_time + rows)
    columns.record_size = <int32_t *>(columns.bits + rows)
    columns.size = columns.record_size + rows
    columns.tag = columns.size + rows
    columns.plugin_name = columns.tag + rows
    columns.content_type = columns.plugin_name + rows
    return columns


cdef inline uint64_t mix(uint64_t h, uint64_t word) noexcept nogil:
    h = (h ^ word) * 0x9E3779B97F4A7C15u
    return h ^ (h >> 29)


cdef inline uint64_t load_number(const uint8_t *at, int32_t size) noexcept nogil:
    return load32(at) if size == 4 else load64(at)


cdef inline bint is_repeated(const Scalar *last, Span tail) noexcept nogil:
    """Returns whether a tag is followed by what last followed it, except for the number."""
    cdef int32_t behind = last.number_at + last.number_size
    if last.tail_size == 0 or tail.end - tail.at != last.tail_size:
        return False
    return memcmp(tail.at, last.tail, last.number_at) == 0 and memcmp(
        tail.at + behind, last.tail + behind, last.tail_size - behind
    ) == 0


cdef void remember(
    Scalar *last,
    int32_t content_type,
    const uint8_t *tail,
    const uint8_t *end,
    Span content,
    Span number,
) noexcept nogil:
    """Keeps the layout of a scalar whose bytes from tail to end follow its tag."""
    memcpy(last.tail, tail, end - tail)
    last.tail_size = <int32_t>(end - tail)
    last.number_at = <int32_t>(number.at - tail)
    last.number_size = <int32_t>(number.end - number.at)
    last.content_at = <int32_t>(content.at - tail)
    last.content_size = <int32_t>(content.end - content.at)
    last.content_type = content_type


cdef inline uint32_t masked_crc(const uint8_t *at, size_t size) noexcept nogil:
    cdef uint32_t crc = run_crc(0xFFFFFFFFu, at, size) ^ 0xFFFFFFFFu
    return ((crc >> 15) | (crc << 17)) + 0xA282EAD8u


cdef inline bint next_varint(Span *span, uint64_t *value) noexcept nogil:
    cdef int shift = 0
    cdef uint8_t octet
    if span.at < span.end and span.at[0] < 0x80:  # most are of one byte
        value[0] = span.at[0]
        span.at += 1
        return True
    value[0] = 0
    while span.at < span.end and shift < 70:
        octet = span.at[0]
        span.at += 1
        if shift < 64:
            value[0] |= <uint64_t>(octet & 0x7F) << shift
        if octet < 0x80:
            return True
        shift += 7
    return False


cdef inline bint next_field(Span *span, Field *field) noexcept nogil:
    """Moves past the next field of a message; returns False when there is no whole one."""
    cdef uint64_t word
    if not next_varint(span, &word):
        return False
    field.number = word >> 3
    field.wire_type = <int>(word & 7)
    if field.number == 0 or field.number >= 1 << 29:
        return False
    if field.wire_type == VARINT:
        return next_varint(span, &field.value)
    if field.wire_type == BYTES:
        if not next_varint(span, &word):
            return False
    elif field.wire_type == FIXED32:
        word = 4
    elif field.wire_type == FIXED64:
        word = 8
    else:
        return False
    if word > <uint64_t>(span.end - span.at):
        return False
    field.content.at = span.at
    span.at += word
    field.content.end = span.at
    return True


cdef Py_ssize_t count_values(Span event) except -2:
    """Returns an event's values, or -1 if the reference would find anything wrong with them."""
    cdef Field field
    cdef Span summary
    cdef Py_ssize_t count = 0
    summary.at = NULL
    while event.at < event.end:
        if not next_field(&event, &field):
            return -1
        if field.number == 5 and field.wire_type == BYTES:
            summary = field.content
            while summary.at < summary.end:
                if not next_field(&summary, &field):
                    return -1
                if field.number == 1 and field.wire_type == BYTES:
                    if not is_regular_value(field.content):
                        return -1
                    count += 1
        elif summary.at != NULL and field.wire_type == BYTES:
            return -1
    return count


cdef bint is_regular_value(Span value):
    cdef Value parsed
    return find_fields(value, &parsed) and is_utf8(parsed.tag) and is_utf8(parsed.plugin_name)


cdef bint find_fields(Span value, Value *parsed) noexcept nogil:
    """Finds the fields of a summary value; returns False when the reference must read it."""
    cdef Field field
    parsed.tag.at = parsed.tag.end = value.at
    parsed.metadata = parsed.plugin_name = parsed.content = field.content = parsed.tag
    parsed.content_type = 0
    parsed.tail = NULL
    while value.at < value.end:
        if not next_field(&value, &field):
            return False
        if parsed.tail == NULL:
            parsed.tail = value.at
        if field.number == 2 and field.wire_type == FIXED32:
            parsed.content_type, parsed.content = SIMPLE_VALUE, field.content
        elif field.wire_type != BYTES:
            continue
        elif field.number == 1:
            parsed.tag = field.content
        elif field.number == 9:
            if parsed.metadata.at != parsed.metadata.end:  # in parts
                return False
            if not find_plugin_name(field.content, &parsed.plugin_name):
                return False
            parsed.metadata = field.content
        elif field.number < 9 and CONTENT_FIELDS[field.number] >= 0:
            if parsed.content_type and parsed.content_type == CONTENT_FIELDS[field.number]:
                return False
            parsed.content_type, parsed.content = CONTENT_FIELDS[field.number], field.content
    return True


cdef bint is_utf8(Span text):
    try:
        PyUnicode_DecodeUTF8(<const char *>text.at, text.end - text.at, NULL)
    except UnicodeDecodeError:
        return False
    return True


cdef bint find_plugin_name(Span metadata, Span *name) noexcept nogil:
    cdef Field field
    cdef Span plugin_data
    while metadata.at < metadata.end:
        if not next_field(&metadata, &field):
            return False
        if field.number == 1 and field.wire_type == BYTES:
            plugin_data = field.content
            while plugin_data.at < plugin_data.end:
                if not next_field(&plugin_data, &field):
                    return False
                if field.number == 1 and field.wire_type == BYTES:
                    name[0] = field.content
    return True


cdef bytes as_bytes(Span span):
    return PyBytes_FromStringAndSize(<const char *>span.at, span.end - span.at)


cdef inline bint is_plugin(Entry *entry, Span name) noexcept nogil:
    """Returns whether a value's plugin name is its tag's, or absent."""
    cdef Py_ssize_t size = name.end - name.at
    if size == 0:
        return True
    return size == entry.plugin_size and memcmp(entry.plugin_name, name.at, size) == 0


cdef int classify_tensor(Span tensor, Span *number) noexcept nogil:
    """Returns a TensorProto's content type, and where a plain scalar's number is."""
    cdef Field field
    cdef Span values
    cdef uint64_t dtype = 0, found = 0
    cdef Py_ssize_t size
    values.at = values.end = tensor.at
    field.content = values
    while tensor.at < tensor.end:
        if not next_field(&tensor, &field):
            return TENSOR
        if field.number == 1 and field.wire_type == VARINT:
            dtype = field.value
        elif found == 0 and (
            (field.wire_type == BYTES and 4 <= field.number <= 6)
            or (field.wire_type == FIXED32 and field.number == 5)
            or (field.wire_type == FIXED64 and field.number == 6)
        ):
            found, values = field.number, field.content
        elif (
            field.number != 2 or field.wire_type != BYTES or field.content.at != field.content.end
        ):
            return TENSOR
    size = values.end - values.at
    number[0] = values
    if dtype == 1 and (found == 4 or found == 5) and size == 4:
        return FLOAT_SCALAR
    if dtype == 2 and (found == 4 or found == 6) and size == 8:
        return DOUBLE_SCALAR
    return TENSOR
