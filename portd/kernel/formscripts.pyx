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

# key; the rest of XCLAIM. Of snapshots, which have pending entries whose messages were deleted.
CLAIMING_THERE = b"""if #redis.call('XCLAIM', KEYS[1], unpack(ARGV)) == 0 then
  return redis.error_reply('ERR message ' .. ARGV[4] .. ' was deleted, and no command leaves it pending')
end
"""

# What deletes messages by their references: groups that have not read them yet, and where they are pending
# (t_stream.c:streamEntryIsReferenced, streamCleanupEntryCGroupRefs).
REFERENCES = EFFECTS + b"""local key, groups, given = KEYS[1], {}, {}
local function full(id)
  return string.find(id, '-', 1, true) and id or id .. '-0'
end
local function padded(id)
  local ms, seq = string.match(full(id), '^0*(%d*)%-0*(%d*)$')
  return string.rep('0', 20 - #ms) .. ms .. string.rep('0', 20 - #seq) .. seq
end
local there = redis.call('EXISTS', key) == 1
for _, told in ipairs(there and redis.call('XINFO', 'GROUPS', key) or {}) do
  local group = {}
  for i = 1, #told, 2 do group[told[i]] = told[i + 1] end
  groups[#groups + 1] = group['name']
  given[#groups] = padded(group['last-delivered-id'])
end
local function stays(id, how)
  for i, group in ipairs(groups) do
    if how == 'DELREF' then redis.call('XACK', key, group, id) end
    if how == 'ACKED' and (given[i] < padded(id) or #redis.call('XPENDING', key, group, full(id), full(id), 1) > 0) then
      return true
    end
  end
end
"""

# key; the rest of XDELEX.
DELETING = REFERENCES + b"""local how = string.upper(ARGV[1])
for i = how == 'IDS' and 3 or 4, #ARGV do
  if not stays(ARGV[i], how) then redis.call('XDEL', key, ARGV[i]) end
end
"""

# key; the rest of XACKDEL.
ACKING = REFERENCES + b"""local how = string.upper(ARGV[2])
for i = how == 'IDS' and 4 or 5, #ARGV do
  local id = ARGV[i]
  if redis.call('XACK', key, ARGV[1], id) == 1 and not stays(id, how) then redis.call('XDEL', key, id) end
end
"""

# key; MAXLEN or MINID, what it says, DELREF or ACKED, how many messages are added behind it. XTRIM does what it can, for it leaves
# the highest deleted id alone; behind messages that stay XDEL does, and XSETID puts that id back.
TRIMMING_REFERENCES = REFERENCES + b"""local by_length, how = string.upper(ARGV[1]) == 'MAXLEN', string.upper(ARGV[3])
local least = not by_length and padded(ARGV[2])
local excess = by_length and there and redis.call('XLEN', key) + ARGV[4] - ARGV[2]
if not there or (by_length and excess <= 0) then return end
local info, told = {}, redis.call('XINFO', 'STREAM', key)
for i = 1, #told, 2 do info[told[i]] = told[i + 1] end
local count = by_length and math.max(2, math.min(500, excess + 2)) or 500
local first, before, behind, last, done = nil, {}, {}, '-', false
repeat
  local page = redis.call('XRANGE', key, last, '+', 'COUNT', count)
  for i = last == '-' and 1 or 2, #page do
    local id = page[i][1]
    done = by_length and excess <= 0 or least and padded(id) >= least
    if done or stays(id, how) then
      first = first or id
    else
      local trimmed = first and behind or before
      trimmed[#trimmed + 1] = id
      excess = excess and excess - 1
    end
    if done then break end
  end
  last = #page > 0 and page[#page][1]
until done or #page < 2
local function trims(...)
  return type(redis.pcall('XTRIM', key, ...)) == 'number'
end
if #before > 0 and not (first and trims('MINID', '=', first) or not first and trims('MAXLEN', 0)) then
  for _, id in ipairs(before) do redis.call('XDEL', key, id) end
end
for _, id in ipairs(behind) do redis.call('XDEL', key, id) end
local deleted = info['max-deleted-entry-id']
if #behind > 0 and deleted and deleted ~= '0-0' then
  redis.call('XSETID', key, info['last-generated-id'], 'ENTRIESADDED', info['entries-added'], 'MAXDELETEDID', deleted)
end
"""

# key; a producer, its own id of a message, the message's id. The message is there, whatever becomes of this.
RECORDING = b"redis.pcall('XIDMPRECORD', KEYS[1], unpack(ARGV))"

# destination, keys; an operation of BITOP. Three spare keys of the same slot, for the destination may be one of the keys.
BITS = b"""local op, into, spare = string.upper(ARGV[1]), KEYS[1], {}
for i = 1, 3 do spare[i] = (string.find(into, '{[^}]+}') and into or '{' .. into .. '}') .. ':portd:' .. i end
local seen, many, both = unpack(spare)
local function bits(...) redis.call('BITOP', ...) end
for i = op == 'ANDOR' and 3 or 2, #KEYS do
  if op == 'ONE' and i > 2 then
    bits('AND', both, seen, KEYS[i])
    bits('OR', many, many, both)
  end
  if op ~= 'DIFF' or i > 2 then bits('OR', seen, seen, KEYS[i]) end
end
if op == 'ONE' then bits('XOR', into, seen, many) end
if op == 'DIFF1' then bits('XOR', into, seen, KEYS[2]) end
if op == 'DIFF' then
  bits('AND', many, seen, KEYS[2])
  bits('XOR', into, many, KEYS[2])
end
if op == 'ANDOR' then bits('AND', into, seen, KEYS[2]) end
redis.call('DEL', unpack(spare))
"""
