-- ARGV: process; how long its leases are believed, and how long news is kept after its subject opens, in microseconds;
-- its leases; then for each news: subject, id, state, age, how soon it opens, strikes
-- Returns the news, as subject and {id, process, state, age, how soon it opens, strikes}, and the others' leases.

local process, lease, keep, leases = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]

local function read_news(text)
  local id, by, state, found, opens, strikes = text:match('^(%S+) (%S+) (%S+) (%S+) (%S+) (%S+)$')
  return {id = id, by = by, state = state, found = tonumber(found), opens = tonumber(opens), strikes = strikes}
end

for first = 5, #ARGV, 6 do
  local subject, id, state = ARGV[first], ARGV[first + 1], ARGV[first + 2]
  local found, opens = now - tonumber(ARGV[first + 3]), now + tonumber(ARGV[first + 4])
  local known = redis.call('HGET', news, subject)
  if not known or read_news(known).found <= found then
    local words = {id, process, state, exactly(found), exactly(opens), ARGV[first + 5]}
    redis.call('HSET', news, subject, table.concat(words, ' '))
  end
end

if leases == '{}' then
  redis.call('HDEL', counts, process)
else
  redis.call('HSET', counts, process, exactly(now + lease) .. ' ' .. leases)
end

local told = {}
local all = redis.call('HGETALL', news)
for number = 1, #all, 2 do
  local one = read_news(all[number + 1])
  if one.opens + keep < now then
    redis.call('HDEL', news, all[number])
  else
    told[#told + 1] = all[number]
    told[#told + 1] = {one.id, one.by, one.state, exactly(now - one.found), exactly(one.opens - now), one.strikes}
  end
end

local others = {}
all = redis.call('HGETALL', counts)
for number = 1, #all, 2 do
  local expiry, text = all[number + 1]:match('^(%S+) (.*)$')
  if tonumber(expiry) <= now then
    redis.call('HDEL', counts, all[number])
  elseif all[number] ~= process then
    others[#others + 1] = text
  end
end

-- Nothing remains of processes that are all gone.
redis.call('PEXPIRE', news, 3600000)
redis.call('PEXPIRE', counts, 3600000)
return {told, others}
