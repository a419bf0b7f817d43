-- ARGV 2...: slots

local holds = {}
for number = 2, #ARGV do
  holds[number - 1] = {ARGV[number]}
end
return standing('held', holds)
