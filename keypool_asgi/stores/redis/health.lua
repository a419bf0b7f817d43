-- What processes tell each other about keys.
--
-- news   hash: a subject -> "id process state found-out opens strikes"; times in Unix microseconds
-- counts hash: a process -> "expiry {name: leases}"

local news, counts = KEYS[1], KEYS[2]

local function exactly(number)
  return string.format('%.0f', number)
end

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
