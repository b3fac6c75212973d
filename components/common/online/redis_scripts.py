"""What runs within Redis, so that comparing and writing a key is one step for everybody else."""

# An instant is compared as its seconds and nanoseconds, out of the bytes of a google.protobuf.Timestamp.
_INSTANT = """
local function instant(text)
  local bytes, found, at = {string.byte(text, 1, -1)}, {0, 0}, 1
  while at < #bytes do
    local field, value, scale, first = (bytes[at] - bytes[at] % 8) / 8, 0, 1, at + 1
    repeat
      at = at + 1
      value = value + bytes[at] % 128 * scale
      scale = scale * 128
    until bytes[at] < 128
    if at - first == 9 then  -- ten bytes: negative, in two's complement
      value, scale = -1, 1
      for each = first, first + 8 do
        value = value - (127 - bytes[each] % 128) * scale
        scale = scale * 128
      end
    end
    found[field] = value
    at = at + 1
  end
  return found[1], found[2]
end
local function later(a, b)
  if a == b then return false end
  local seconds, nanos = instant(a)
  local others, rest = instant(b)
  return seconds > others or seconds == others and nanos > rest
end
"""
# KEYS: the hashes. ARGV: until when stored values are replaced, or nothing for each row's own time; seconds until the
# hash expires, or 0; the number of fields; their names, the time's first; then the values of each key.
WRITE = (
    _INSTANT
    + """
local bound, expires, count = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local time, first, written = ARGV[4], 4 + count, 0
for _, key in ipairs(KEYS) do
  local stored = redis.call('HGET', key, time)
  if not stored or not later(stored, bound == '-' and ARGV[first] or bound) then
    local set = {}
    for at = 1, count do
      set[2 * at - 1] = ARGV[3 + at]
      set[2 * at] = ARGV[first + at - 1]
    end
    redis.call('HSET', key, unpack(set))
    if expires > 0 then redis.call('EXPIRE', key, expires) end
    written = written + 1
  end
  first = first + count
end
return written
"""
)
# KEYS: the hashes. ARGV: until when stored values are removed; the names of the fields, the time's first.
REMOVE = (
    _INSTANT
    + """
local removed, bound = 0, table.remove(ARGV, 1)
for _, key in ipairs(KEYS) do
  local stored = redis.call('HGET', key, ARGV[1])
  if stored and not later(stored, bound) then
    redis.call('HDEL', key, unpack(ARGV))
    removed = removed + 1
  end
end
return removed
"""
)
