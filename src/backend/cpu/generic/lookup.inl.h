// Codes of four bits through a table, as they lie two to a byte. Included after the set's int header.
#pragma once

/// table[the low or the high four bits] of each byte.
BB_INLINE I32x16 lookup_low(const uint8_t (&table)[16], I32x16 line) { return lookup(table, low_nibbles(line)); }
BB_INLINE I32x16 lookup_high(const uint8_t (&table)[16], I32x16 line) { return lookup(table, high_nibbles(line)); }
