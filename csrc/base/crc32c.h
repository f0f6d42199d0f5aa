/* crc32c.h - CRC-32C (Castagnoli polynomial 0x1EDC6F41, reflected; RFC 3720), as iSCSI, ext4 and
 * LevelDB use it.  Layer: base (a leaf).  Thread-safe; the fastest way this processor has is
 * chosen once (SSE4.2 on x86-64, the CRC extension on ARMv8, tables of 8 bytes elsewhere).
 */
#ifndef KV_BASE_CRC32C_H
#define KV_BASE_CRC32C_H

#include <stddef.h>
#include <stdint.h>

/* The CRC of `size` bytes that follow bytes whose CRC is `crc` (0 for none):
 * kv_crc32c(0, "123456789", 9) == 0xE3069283. */
uint32_t kv_crc32c(uint32_t crc, const void *data, size_t size);

/* The same, never with special instructions: what the others are tested against. */
uint32_t kv_crc32c_portable(uint32_t crc, const void *data, size_t size);

#endif
