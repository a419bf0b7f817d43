// The visible texts of the page that stand out from what is behind them by less than 3 to 1 (WCAG 2.2, section 1.4.11).
(() => {
  const numbers = (colour) => colour.match(/[\d.]+/g).map(Number);
  const linear = (value) => (value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
  const luminance = ([red, green, blue]) =>
    0.2126 * linear(red / 255) + 0.7152 * linear(green / 255) + 0.0722 * linear(blue / 255);
  const above = (element) => (element ? [element, ...above(element.parentElement)] : []);
  const ground = (element) =>
    above(element)
      .reverse()
      .map((each) => numbers(getComputedStyle(each).backgroundColor))
      .reduce((under, [r, g, b, a = 1]) => under.map((value, at) => value * (1 - a) + [r, g, b][at] * a), [255, 255, 255]);
  const contrast = (element) => {
    const [light, dark] = [luminance(numbers(getComputedStyle(element).color)), luminance(ground(element))].sort((a, b) => b - a);
    return (light + 0.05) / (dark + 0.05);
  };
  const shown = (element) =>
    element.checkVisibility({ visibilityProperty: true }) &&
    !["OPTION", "SCRIPT", "STYLE", "NOSCRIPT"].includes(element.tagName) &&
    !above(element).some((each) => getComputedStyle(each).opacity < 1 || each.disabled);

  const faint = new Set();
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const text = texts.currentNode.data.trim();
    const element = texts.currentNode.parentElement;
    if (text && shown(element) && contrast(element) < 3) faint.add(`${contrast(element).toFixed(2)}: ${text.slice(0, 60)}`);
  }
  return [...faint];
})();
