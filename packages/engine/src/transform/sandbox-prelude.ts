/**
 * What runs inside a sandbox before the functions do: it takes away what is not a function of the message (the clock,
 * chance, what depends on garbage collection), freezes everything that all code shares, and calls the functions.
 *
 * It is JavaScript for QuickJS. Whatever it uses after the freeze cannot have been replaced by a function.
 *
 * Answers of `run`, which are texts without NUL and with a line break only where shown:
 *   f                              filtered
 *   u<route>                       the message as it came; <route> is JSON, or empty where no routing function is
 *   m<route> LF <body> LF <body>   what the transform made of it, a JSON text each; none: no LF
 *   e<json>                        a function failed: [stage, name of the error, its text, its stack]
 */
export const SANDBOX_PRELUDE = String.raw`
(function (mark) {
'use strict';
const { parse, stringify } = JSON;
const { getPrototypeOf, getOwnPropertyDescriptor, getOwnPropertyNames, defineProperty, freeze, isFrozen } = Object;
const { ownKeys, construct } = Reflect;
const toText = String, PromiseOf = Promise, isArray = Array.isArray;
const NativeDate = Date, parseTime = Date.parse, ErrorOf = Error, TypeErrorOf = TypeError;
const global = globalThis;

// 1. What the message does not decide.
for (const name of ['WeakRef', 'FinalizationRegistry', 'Atomics', 'SharedArrayBuffer', 'performance', 'gc', 'print',
  'console', 'navigator', 'scriptArgs', 'os', 'std', 'bjson', 'queueMicrotask']) delete global[name];

/** JSON of the metadata of the message, or null. */
let metadataText = null;
/** The values of it that clock and chance are made of; null: they are not read yet. */
let stamps = null;
let seed = null;
let chance = 0;
const NO_MESSAGE = 'there is no message yet: the clock and Math.random are those of a message';

function readStamps() {
  if (stamps === null) {
    if (metadataText === null) throw new ErrorOf(NO_MESSAGE);
    const { commit_timestamp: time, idempotency_key: key } = parse(metadataText);
    stamps = { time, key };
  }
  return stamps;
}
function now() {
  const { time } = readStamps();
  return typeof time === 'number' ? Math.floor(time / 1000) : parseTime(time);
}
function MessageDate(...args) {
  if (new.target === undefined) return new NativeDate(now()).toString();
  return construct(NativeDate, args.length === 0 ? [now()] : args, new.target);
}
defineProperty(MessageDate, 'name', { value: 'Date' });
defineProperty(MessageDate, 'length', { value: 7 });
MessageDate.prototype = NativeDate.prototype;
defineProperty(MessageDate, 'prototype', { writable: false, enumerable: false });
for (const name of ['parse', 'UTC']) defineProperty(MessageDate, name, getOwnPropertyDescriptor(NativeDate, name));
defineProperty(MessageDate, 'now', { value: now, writable: true, enumerable: false, configurable: true });
defineProperty(NativeDate.prototype, 'constructor', { value: MessageDate });
defineProperty(global, 'Date', { value: MessageDate });

// splitmix32, from a hash (FNV-1a) of the idempotency key.
function random() {
  if (seed === null) {
    const key = toText(readStamps().key);
    seed = 0x811c9dc5;
    for (let i = 0; i < key.length; i++) seed = Math.imul(seed ^ key.charCodeAt(i), 0x01000193);
    chance = seed;
  }
  let value = (chance = (chance + 0x9e3779b9) | 0);
  value = Math.imul(value ^ (value >>> 16), 0x21f0aaad);
  value = Math.imul(value ^ (value >>> 15), 0x735a2d97);
  return ((value ^ (value >>> 15)) >>> 0) / 4294967296;
}
defineProperty(Math, 'random', { value: random });

// 2. Exact integers: bigint in, digits out.
let bigints = false;
const markedText = new RegExp('"' + mark + '(-?\\d+)"', 'g');
defineProperty(BigInt.prototype, 'toJSON', {
  value: function toJSON() { bigints = true; return mark + BigInt.prototype.toString.call(this); },
});
function toJson(value, replacer, space) {
  bigints = false;
  const text = stringify(value, replacer, space);
  return bigints && text !== undefined ? text.replace(markedText, '$1') : text;
}
defineProperty(toJson, 'name', { value: 'stringify' });
JSON.stringify = toJson;
function exact(name, value) {
  return typeof value === 'string' && value.startsWith(mark) ? BigInt(value.slice(mark.length)) : value;
}

// 3. Several messages, or none.
class Messages {
  #values;
  constructor(values) { this.#values = values; freeze(this); }
  static isOne(value) { return typeof value === 'object' && value !== null && #values in value; }
  static valuesOf(value) { return value.#values; }
}
const { isOne, valuesOf } = Messages;
function messages(values = []) {
  if (!isArray(values)) throw new TypeErrorOf('messages() takes an array with one element for each message');
  return new Messages([...values]);
}
defineProperty(global, 'messages', { value: messages });

// 4. Nothing shared can be changed. Where a plain assignment on an own object would be refused because what it inherits
// is frozen (o.toString = ..., error.name = ...), an accessor takes its place that defines it on the object.
function openToOverride(object) {
  for (const name of ownKeys(object)) {
    const { value, writable, configurable, enumerable } = getOwnPropertyDescriptor(object, name);
    if (!writable || !configurable) continue;
    defineProperty(object, name, {
      get() { return value; },
      set(next) {
        if (this === object) throw new TypeErrorOf('what all code shares cannot be changed');
        defineProperty(this, name, { value: next, writable: true, enumerable: true, configurable: true });
      },
      enumerable,
      configurable: false,
    });
  }
}
const errors = getOwnPropertyNames(global).filter((name) => name.endsWith('Error'));
for (const one of [Object.prototype, ...errors.map((name) => global[name].prototype)]) openToOverride(one);

const seen = new Set();
function freezeAll(value) {
  const waiting = [value];
  while (waiting.length > 0) {
    const one = waiting.pop();
    if ((typeof one !== 'object' || one === null) && typeof one !== 'function') continue;
    if (seen.has(one)) continue;
    seen.add(one);
    freeze(one);
    waiting.push(getPrototypeOf(one));
    for (const name of ownKeys(one)) {
      const { value, get, set } = getOwnPropertyDescriptor(one, name);
      waiting.push(value, get, set);
    }
  }
}
// What no name leads to.
freezeAll([
  global,
  function* () {}, async function () {}, async function* () {}, (function* () {})(), (async function* () {})(),
  [][Symbol.iterator](), ''[Symbol.iterator](), new Map()[Symbol.iterator](), new Set()[Symbol.iterator](),
  'a'.matchAll(/a/g), new Uint8Array(0), Iterator.prototype, [].values().map((value) => value), Iterator.from({ next() {} }),
  Messages, Messages.prototype, (function () { return arguments; })(), /a/.exec('a'),
]);
freeze(NativeDate);

// 5. Calls.
let filter = null;
let transform = null;
let route = null;
let stage = '';
/** How many of the arguments any of the functions can see, and of each which keys; null: all. */
let needed = 0;
const keysSeen = [null, new Set(), new Set(), new Set()];
const KEYS_MAX = 64;

/** What is not seen is not parsed. Where it is not plain to see what a function looks at, it gets everything. */
function look(one) {
  const text = Function.prototype.toString.call(one);
  // An escape can be part of a name.
  const hidden = /\barguments\b|\beval\b|\[native code\]|\\u/.test(text);
  const names = hidden ? null : parametersOf(text);
  const head = text.slice(0, Math.max(text.indexOf(')'), text.indexOf('=>')));
  const more = names === null && (hidden || /\.\.\./.test(text) || /=(?!>)/.test(head));
  needed = Math.max(needed, more ? 4 : one.length);
  for (let i = 1; i < 4; i++) {
    if (keysSeen[i] === null || (names !== null && i >= names.length)) continue;
    const keys = names === null ? null : keysOf(text, names[i]);
    if (keys !== null) for (const key of keys) keysSeen[i].add(key);
    if (keys === null || keysSeen[i].size > KEYS_MAX) keysSeen[i] = null;
  }
}

/** Where they are plain names; otherwise null. */
function parametersOf(text) {
  const list = /^(?:function\s*[\w$]*\s*)?\(([\w$,\s]*)\)/.exec(text);
  return list === null ? null : list[1].split(',').map((name) => name.trim());
}

/**
 * The keys that a function can see of an argument which it does nothing with but write a dot and a key after its name;
 * otherwise null. What such a key holds is never called with the argument as its this, and never one that all objects
 * have: both could see all keys.
 */
function keysOf(text, name) {
  if (name === '') return [];
  const keys = [];
  let declared = false;
  const word = '(?<![\\w$])' + name.replaceAll('$', '\\$') + '(?![\\w$])';
  const use = new RegExp(word + '(?:\\s*(?:\\?\\.|\\.)\\s*([A-Za-z_$][\\w$]*)([\\s)]*(?:\\?\\.\\s*)?(?:[(\x60]|/[/*]))?)?', 'g');
  for (const [, key, called] of text.matchAll(use)) {
    if (key === undefined ? declared : called !== undefined || key in Object.prototype) return null;
    if (key !== undefined) keys.push(key);
    declared = true;
  }
  return keys;
}

const STAGES = {
  filter: (one) => { filter = one; },
  transform: (one) => { transform = one; },
  routing: (one) => { route = one; },
};

/** Returns a text that says what is wrong, or an empty one. */
function use(type, names, space) {
  if (space instanceof PromiseOf) return 'await at the top level is not possible.';
  for (const name of names) {
    const one = space[name];
    if (one === undefined) continue;
    if (typeof one !== 'function') return name + ' is not a function but ' + describe(one) + '.';
    const kind = getPrototypeOf(one) === Function.prototype ? '' : toText(one.constructor && one.constructor.name);
    if (kind.startsWith('Async')) return 'async functions are not possible: there is nothing to wait for.';
    if (kind === 'GeneratorFunction') return 'generator functions are not possible.';
    STAGES[type](one);
    look(one);
    return '';
  }
  return 'it exports no function: ' + names.join(' or ') + ' is missing.';
}

function describe(value) {
  if (value === null) return 'null';
  if (value instanceof PromiseOf) return 'a Promise; async functions are not possible';
  if (isArray(value)) return 'an array';
  switch (typeof value) {
    case 'undefined': return 'undefined';
    case 'object': return 'an object';
    default: return 'a ' + typeof value;
  }
}

class Refused extends ErrorOf {}

/** JSON of what a function returned. */
function jsonOf(value, what) {
  if (value instanceof PromiseOf) throw new Refused('it returned ' + describe(value));
  if (typeof value === 'object' && value !== null && typeof value.then === 'function') {
    throw new Refused('it returned something to wait for; async functions are not possible');
  }
  const text = toJson(value);
  if (text === undefined) throw new Refused(what + describe(value));
  return text;
}

/** JSON of the arguments that any of the functions can see: of each a list of keys, or null for all of it. */
function sight() {
  const keys = keysSeen.slice(0, needed).map((names) => (names === null ? null : [...names]));
  return stringify(keys);
}

/** The text is an array with as many of action, record, changes and metadata, and of their keys, as can be seen. */
function run(text, textOfMetadata) {
  return runOn(text, textOfMetadata, undefined);
}

/** The same of a text with integers that were marked. */
function runMarked(text, textOfMetadata) {
  return runOn(text, textOfMetadata, exact);
}

function runOn(text, textOfMetadata, reviver) {
  try {
    stage = 'parse';
    stamps = null;
    metadataText = textOfMetadata === undefined ? null : textOfMetadata;
    const parsed = parse(text, reviver);
    const action = parsed[0];
    const record = parsed[1];
    const changes = parsed[2];
    const metadata = parsed[3];
    if (filter !== null) {
      stage = 'filter';
      seed = null;
      const passes = filter(action, record, changes, metadata);
      if (passes === false) return 'f';
      if (passes !== true) throw new Refused('it has to return true or false and returned ' + describe(passes));
    }
    let answer = '';
    if (route !== null) {
      stage = 'routing';
      seed = null;
      const way = route(action, record, changes, metadata);
      answer = jsonOf(way, 'it has to return an object and returned ');
      if (answer[0] !== '{' || isOne(way)) {
        throw new Refused('it has to return an object and returned ' + describe(way));
      }
    }
    if (transform === null) return 'u' + answer;
    stage = 'transform';
    seed = null;
    answer = 'm' + answer;
    const made = transform(action, record, changes, metadata);
    if (made === undefined) {
      throw new Refused('it returned undefined; return null for a JSON null, messages([]) for no message');
    }
    if (!isOne(made)) return answer + '\n' + jsonOf(made, 'it has to return a JSON value and returned ');
    const values = valuesOf(made);
    for (let i = 0; i < values.length; i++) {
      answer += '\n' + jsonOf(values[i], 'messages([...]) has to hold JSON values and holds ');
    }
    return answer;
  } catch (error) {
    return 'e' + failure(error);
  }
}

/** A thrown value can be anything, and reading it can throw again. */
function failure(error) {
  let name = '', message = '', stack = '';
  try {
    if (error instanceof Refused) name = 'refused';
    else if (error instanceof ErrorOf) name = toText(error.name).slice(0, 100);
    else name = 'thrown';
    message = (error instanceof ErrorOf ? toText(error.message) : typeof error + ' ' + toText(error)).slice(0, 2000);
    stack = error instanceof ErrorOf ? toText(error.stack).slice(0, 2000) : '';
  } catch {}
  return stringify([stage, name, message, stack]);
}

function stageNow() {
  return stage;
}

return freeze({ use, sight, run, runMarked, failure, stageNow });
})
`;
