-- ARGV 3...: limit, "newest" or "oldest" first, first place or "", first place beyond or "", "team" and the team or
-- "all" and "", statuses...
-- Returns what is known of the resources of each list that is asked for, up to the limit of each.

local limit, order, low, high = tonumber(ARGV[3]), ARGV[4], ARGV[5], ARGV[6]
local team = ARGV[7] == 'team' and ARGV[8]
local found = {}

local function range(name)
  local first = '[' .. name .. low
  -- A list's name ends with "|", and "}" is the next character.
  local beyond = high == '' and '(' .. name:sub(1, -2) .. '}' or '(' .. name .. high
  if order == 'newest' then
    return redis.call('ZREVRANGEBYLEX', lists, beyond, first, 'LIMIT', 0, limit)
  end
  return redis.call('ZRANGEBYLEX', lists, first, beyond, 'LIMIT', 0, limit)
end

-- What has expired in the way is dropped, and then the list is walked again.
local function walk(name)
  local dropped, shown
  repeat
    dropped, shown = false, {}
    for _, member in ipairs(range(name)) do
      -- A place is 16 digits and the id.
      local id = member:sub(#name + 17)
      local body, fresh = look(id)
      if fresh then
        shown[#shown + 1] = cjson.encode({id, body})
      else
        drop(id, body)
        dropped = true
      end
    end
  until not dropped
  for _, text in ipairs(shown) do
    found[#found + 1] = text
  end
end

if #ARGV < 9 then
  walk(list_name(team, false))
end
for number = 9, #ARGV do
  walk(list_name(team, ARGV[number]))
end
return found
