# cython: language_level=3
"""Scripts that do on an older target what a newer command does; their arguments are those of the command, as they came.

They run where the command would, inside of our transaction, so they see the value that the source saw. All work from
Redis 4.0 on, where a script's effects are replicated only after ``replicate_commands``. Two readings of the clock that
agree around PTTL tell when a key expires (expire.c:ttlGenericCommand).
"""

EFFECTS = b"if redis.replicate_commands then redis.replicate_commands() end\n"

EXPIRY = b"""local function clock()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end
local function expiry(key)
  local before, left
  repeat
    before = clock()
    left = redis.call('PTTL', key)
  until clock() == before
  return left >= 0 and string.format('%.0f', before + left)
end
"""

# key; value, options. SET .. KEEPTTL and others without an expiry.
SET_KEEPING = EFFECTS + EXPIRY + b"""local at = false
for i = 2, #ARGV do
  if string.upper(ARGV[i]) == 'KEEPTTL' then at = expiry(KEYS[1]) end
end
redis.call('SET', KEYS[1], ARGV[1])
if at then redis.call('PEXPIREAT', KEYS[1], at) end
"""

# numkeys, key, value, .. options. MSETEX.
MANY_SETS = EFFECTS + EXPIRY + b"""local last = 1 + 2 * tonumber(ARGV[1])
local keep, command, time = false, nil, nil
local commands = {EX = 'EXPIRE', PX = 'PEXPIRE', EXAT = 'EXPIREAT', PXAT = 'PEXPIREAT'}
for i = last + 1, #ARGV do
  local word = string.upper(ARGV[i])
  if word == 'KEEPTTL' then keep = true end
  if commands[word] then command, time = commands[word], ARGV[i + 1] end
end
for i = 2, last, 2 do
  local at = keep and expiry(ARGV[i])
  redis.call('SET', ARGV[i], ARGV[i + 1])
  if at then redis.call('PEXPIREAT', ARGV[i], at) end
  if command then redis.call(command, ARGV[i], time) end
end
"""

# source, destination; options. COPY.
COPYING = EFFECTS + EXPIRY + b"""local value = redis.call('DUMP', KEYS[1])
if not value then return end
local at = expiry(KEYS[1])
for i = 1, #ARGV do
  if string.upper(ARGV[i]) == 'DB' then redis.call('SELECT', ARGV[i + 1]) end
end
redis.call('DEL', KEYS[2])
redis.call('RESTORE', KEYS[2], 0, value)
if at then redis.call('PEXPIREAT', KEYS[2], at) end
"""

# source, destination; LEFT or RIGHT of each. Pushed before it is popped: a list that is both keeps its expiry.
MOVING = b"""local from, to = string.upper(ARGV[1]), string.upper(ARGV[2])
local value = redis.call('LINDEX', KEYS[1], from == 'LEFT' and 0 or -1)
if not value or (KEYS[1] == KEYS[2] and from == to) then return end
redis.call(to == 'LEFT' and 'LPUSH' or 'RPUSH', KEYS[2], value)
redis.call(from == 'LEFT' and 'LPOP' or 'RPOP', KEYS[1])
"""

# key; the arguments of HSETEX, on targets with expiry times of fields.
FIELDS = b"""local i, keep, command, time = 1, false, nil, nil
local commands = {EX = 'HEXPIRE', PX = 'HPEXPIRE', EXAT = 'HEXPIREAT', PXAT = 'HPEXPIREAT'}
while string.upper(ARGV[i]) ~= 'FIELDS' do
  local word = string.upper(ARGV[i])
  if word == 'KEEPTTL' then keep = true end
  if commands[word] then
    command, time = commands[word], ARGV[i + 1]
    i = i + 1
  end
  i = i + 1
end
for field = i + 2, #ARGV, 2 do
  local at = keep and redis.call('HPEXPIRETIME', KEYS[1], 'FIELDS', 1, ARGV[field])
  redis.call('HSET', KEYS[1], ARGV[field], ARGV[field + 1])
  if command then redis.call(command, KEYS[1], time, 'FIELDS', 1, ARGV[field]) end
  if at and at[1] and at[1] > 0 then
    redis.call('HPEXPIREAT', KEYS[1], string.format('%.0f', at[1]), 'FIELDS', 1, ARGV[field])
  end
end
"""

# key; the arguments of ZADD with GT or LT and more than one member: each had a condition of its own.
BEST_SCORES = b"""local i, has = 1, {}
local words = {XX = true, GT = true, LT = true, CH = true}
while words[string.upper(ARGV[i])] do
  has[string.upper(ARGV[i])] = true
  i = i + 1
end
for at = i, #ARGV, 2 do
  local old = redis.call('ZSCORE', KEYS[1], ARGV[at + 1])
  local better = not has.XX
  if old then
    local one, other = tonumber(ARGV[at]), tonumber(old)
    better = (has.GT and one > other) or (has.LT and one < other)
  end
  if better then redis.call('ZADD', KEYS[1], ARGV[at], ARGV[at + 1]) end
end
"""

# destination, source; the rest of ZRANGESTORE.
RANGE_STORING = b"""local has, limit = {}, {}
local i = 3
while i <= #ARGV do
  local word = string.upper(ARGV[i])
  has[word] = true
  if word == 'LIMIT' then
    limit = {'LIMIT', ARGV[i + 1], ARGV[i + 2]}
    i = i + 2
  end
  i = i + 1
end
local by = has.BYSCORE and 'BYSCORE' or has.BYLEX and 'BYLEX' or ''
local members = redis.call('Z' .. (has.REV and 'REV' or '') .. 'RANGE' .. by, KEYS[2], ARGV[1], ARGV[2], unpack(limit))
local found = {}
for at, member in ipairs(members) do
  found[at] = redis.call('ZSCORE', KEYS[2], member)
end
redis.call('DEL', KEYS[1])
for at, member in ipairs(members) do
  redis.call('ZADD', KEYS[1], found[at], member)
end
"""

# destination; numkeys, keys of ZDIFFSTORE, which may be sets, or the destination.
DIFF_STORING = b"""local gone = {}
for i = 3, 1 + tonumber(ARGV[1]) do
  local is_set = redis.call('TYPE', ARGV[i])['ok'] == 'set'
  local members = is_set and redis.call('SMEMBERS', ARGV[i]) or redis.call('ZRANGE', ARGV[i], 0, -1)
  for _, member in ipairs(members) do gone[#gone + 1] = member end
end
redis.call('ZUNIONSTORE', KEYS[1], 1, ARGV[2])
for _, member in ipairs(gone) do redis.call('ZREM', KEYS[1], member) end
"""

# key; the least id that stays. XTRIM MINID.
TRIMMING = b"""local least = ARGV[1]
if not string.find(least, '-', 1, true) then least = least .. '-0' end
local page
repeat
  page = redis.call('XRANGE', KEYS[1], '-', least, 'COUNT', 500)
  local ids = {}
  for _, entry in ipairs(page) do
    if entry[1] ~= least then ids[#ids + 1] = entry[1] end
  end
  if #ids > 0 then redis.call('XDEL', KEYS[1], unpack(ids)) end
until #page < 500
"""

# key; the rest of XCLAIM. Since 7.0 it removes a pending entry whose message was deleted (t_stream.c:xclaimCommand).
CLAIMING = b"""if #redis.call('XRANGE', KEYS[1], ARGV[4], ARGV[4]) == 0 then
  return redis.call('XACK', KEYS[1], ARGV[1], ARGV[4])
end
return redis.call('XCLAIM', KEYS[1], unpack(ARGV))
"""
