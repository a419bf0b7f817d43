-- Quota: the arithmetic of core/reservations.py in doubles, which hold every number of it exactly.
--
-- levels   hash: slot -> "value at"
-- idle     sorted set: slot by the time from which its level says nothing any more
-- permits  hash: id -> the ticks or window beginnings its holds were made in, the hash of the id that it had before it
--          was renamed, and its holds as they were given: "at at ...\nhash\n[[...], ...]"
-- expiries sorted set: id by the time of its expiry
--
-- Times are Unix microseconds. cjson reads numbers exactly, but writes 14 digits: so what it has read is kept as text.
--
-- A hold is {slot, kind, amount, limit amount, tick, span, unit, calendar, windows}. "windows" are the beginnings of
-- the last, this and the next calendar window, and the end of the next, as its process saw it.

local levels, idle, permits, expiries = KEYS[1], KEYS[2], KEYS[3], KEYS[4]

local HELD, RATE = 0, 1
local CEILING = 2 ^ 52
-- Permits that expire within one call at most: those of a machine that died, not to keep the others waiting for long.
local EXPIRED = 1000
-- More than one reservation can have made idle.
local SWEPT = 8

-- Unix time in microseconds: the caller's, if it has a clock of its own, or the server's.
local function clock(given)
  if given ~= '' then
    return tonumber(given)
  end
  local time = redis.call('TIME')
  return time[1] * 1000000 + time[2]
end

local now = clock(ARGV[1])

local function exactly(number)
  return string.format('%.0f', number)
end

local function read_level(slot)
  local text = redis.call('HGET', levels, slot)
  if not text then
    return nil, nil
  end
  local value, at = text:match('^(%S+) (%S+)$')
  return tonumber(value), tonumber(at)
end

local function write_level(slot, value, at, idle_at)
  if value == 0 then
    redis.call('HDEL', levels, slot)
    redis.call('ZREM', idle, slot)
    return
  end
  redis.call('HSET', levels, slot, exactly(value) .. ' ' .. exactly(at))
  if idle_at then
    redis.call('ZADD', idle, exactly(idle_at), slot)
  end
end

-- Find the window that it is now: its beginning and its end; nothing when the given ones are too far off.
local function window_in(windows)
  for number = 1, #windows - 1 do
    if windows[number] <= now and now < windows[number + 1] then
      return windows[number], windows[number + 1]
    end
  end
end

-- A level's value and time once what is over by now is gone, and when it would be idle with another value.
local function current(hold, window_start, window_end)
  local slot, kind, amount, tick, span = hold[1], hold[2], hold[4], hold[5], hold[6]
  local value, at = read_level(slot)
  if kind == HELD then
    return value or 0, 0, function() end
  end
  if kind == RATE then
    local ticks = (now - now % tick) / tick
    if not value then
      value, at = 0, ticks
    elseif ticks >= at then
      -- Beyond 2^53 the product is not exact, but then it is above any value.
      value, at = math.max(0, value - amount * (ticks - at)), ticks
    elseif at - ticks > span then
      at = ticks
    end
    return value, at, function(new) return (at + math.ceil(new / amount)) * tick end
  end
  if not value or window_start > at then
    value, at = 0, window_start
  elseif at ~= window_end then
    at = window_start
  end
  -- Longer than needed, where another window follows that was longer.
  return value, at, function() return at + 2 * (window_end - window_start) end
end

local function read_permit(id)
  local text = redis.call('HGET', permits, id)
  if not text then
    return nil
  end
  local made, former, holds = text:match('^([^\n]*)\n([^\n]*)\n(.*)$')
  local times = {}
  for at in made:gmatch('%S+') do
    times[#times + 1] = tonumber(at)
  end
  return {made = made, former = former, text = holds, holds = cjson.decode(holds), times = times}
end

local function write_permit(id, made, former, text, ttl)
  redis.call('HSET', permits, id, made .. '\n' .. former .. '\n' .. text)
  redis.call('ZADD', expiries, exactly(now + ttl), id)
end

local function end_permit(id)
  redis.call('HDEL', permits, id)
  redis.call('ZREM', expiries, id)
end

-- What is occupied comes back, what is used up per window stays used.
local function free(permit)
  for _, hold in ipairs(permit.holds) do
    if hold[2] == HELD then
      write_level(hold[1], math.max(0, (read_level(hold[1]) or 0) - hold[3]), 0)
    end
  end
end

local function expire()
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', expiries, '-inf', exactly(now), 'LIMIT', 0, EXPIRED)) do
    free(read_permit(id))
    end_permit(id)
  end
end

local function sweep()
  for _, slot in ipairs(redis.call('ZRANGEBYSCORE', idle, '-inf', exactly(now), 'LIMIT', 0, SWEPT)) do
    redis.call('HDEL', levels, slot)
    redis.call('ZREM', idle, slot)
  end
end

-- The levels of holds as they are kept, for the caller to reckon with: slot, value and time of each.
local function standing(outcome, holds)
  local answer = {outcome, exactly(now)}
  for _, hold in ipairs(holds) do
    local value, at = read_level(hold[1])
    answer[#answer + 1] = hold[1]
    answer[#answer + 1] = exactly(value or 0)
    answer[#answer + 1] = exactly(at or 0)
  end
  return answer
end

-- Asks the caller for the windows of a calendar around now.
local function ask(name)
  return {'windows', exactly(now), name}
end

expire()
