-- ARGV 2...: permit id; "used" or "released"; what was used, by unit; windows by calendar

local id, released = ARGV[2], ARGV[3] == 'released'
local used, calendars = cjson.decode(ARGV[4]), cjson.decode(ARGV[5])
local permit = read_permit(id)
if not permit then
  return {'over', exactly(now)}
end

-- By how many units more than held was used; nil where that is nothing to reckon with.
local function rest_of(hold)
  local spent = released and 0 or used[hold[7]] or hold[3]
  if hold[2] ~= HELD and spent ~= hold[3] then
    return spent - hold[3]
  end
end

local starts, ends = {}, {}
for number, hold in ipairs(permit.holds) do
  if hold[9] and rest_of(hold) then
    starts[number], ends[number] = window_in(calendars[hold[8]] or hold[9])
    if not starts[number] then
      return ask(hold[8])
    end
  end
end

-- Change by how much more or less was used than held, of a level that stands at a time.
local function correction(hold, made, at, rest)
  if hold[2] ~= RATE then
    return (rest > 0 or at == made) and rest or 0
  end
  local grains = rest * hold[6]
  if rest < 0 then
    -- So many of its own grains are certainly still there.
    local own = hold[3] * hold[6] - hold[4] * math.max(0, at - made)
    grains = -math.max(0, math.min(-grains, own))
  end
  return grains
end

for number, hold in ipairs(permit.holds) do
  local rest = rest_of(hold)
  if rest then
    local value, at, idle_at = current(hold, starts[number], ends[number])
    value = math.max(0, math.min(value + correction(hold, permit.times[number], at, rest), CEILING))
    write_level(hold[1], value, at, idle_at(value))
  end
end
free(permit)
end_permit(id)
return standing('over', permit.holds)
