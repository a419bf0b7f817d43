-- ARGV 2...: permit id, its time to live in microseconds, holds. Returns "held" or "denied" and the levels.

local id, ttl, text = ARGV[2], tonumber(ARGV[3]), ARGV[4]
local holds = cjson.decode(text)
if redis.call('HEXISTS', permits, id) == 1 then
  return standing('held', holds)
end

local values, times, idles = {}, {}, {}
for number, hold in ipairs(holds) do
  local window_start, window_end
  if hold[9] then
    window_start, window_end = window_in(hold[9])
    if not window_start then
      return ask(hold[8])
    end
  end
  local value, at, idle_at = current(hold, window_start, window_end)
  local grain = hold[2] == RATE and hold[6] or 1
  value = value + hold[3] * grain
  if value > hold[4] * grain then
    return standing('denied', holds)
  end
  values[number], times[number], idles[number] = value, exactly(at), idle_at(value)
end

for number, hold in ipairs(holds) do
  write_level(hold[1], values[number], tonumber(times[number]), idles[number])
end
write_permit(id, table.concat(times, ' '), '', text, ttl)
sweep()
return standing('held', holds)
